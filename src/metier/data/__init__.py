"""Rows and what becomes of them: sources → formats → steps → splits → dataset versions → tokens and batches."""

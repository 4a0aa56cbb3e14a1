"""Other tools' settings, one file per tool: what each key says here, and what is left behind and why.

A file has `summary` and `translate(settings, folder)`. What a tool's file does not say, the tool has a default for;
where that changes the result, the default is carried over, too, so that a recipe trains as the file did.
"""

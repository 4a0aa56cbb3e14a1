"""Floor 3: the product as functions. The command line, the web page and the Python API call these and nothing else."""

"""The verbs of the command line: each a function of its arguments that gives the exit status."""

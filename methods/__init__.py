"""The learners: one file is one method is its name on the command line."""

"""One run: loaded, looped over tasks, fitted, evaluated, shown."""



def given[M: type](cls: M, **arguments: object) -> M:
    """The class with other defaults."""

    def __init__(self: Any, **others: object) -> None:
        cls.__init__(self, **arguments | others)

    return type(cls)(cls.__name__, (cls,), {"__init__": __init__, "__module__": cls.__module__})

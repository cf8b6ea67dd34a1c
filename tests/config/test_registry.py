"""Methods by name: what is read from the source is what the imported class says."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmark import cli
from benchmark.config import arguments, class_source, registry
from benchmark.errors import UserError
from benchmark.record import provenance
from methods.base import IncrementalMethod

SHIPPED = ("independent_lora", "joint_lora", "mslora_cr", "ncm", "sequential_lora", "stacked_lora", "zero_shot")


def defaults(cls: type) -> dict[str, object]:
    """Of the imported class's ``__init__``, with those of its bases as far as ``**kwargs`` are passed on."""
    found: dict[str, object] = {}
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(base.__init__).parameters.values()
        own = {p.name: p.default for p in parameters if p.default is not p.empty}
        found = own | found
        if base is IncrementalMethod or not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return found


# ---- the shipped methods ------------------------------------------------------------------------------------------


def test_the_shipped_methods_are_found() -> None:
    assert set(SHIPPED) <= set(registry.names())
    assert registry.names() == sorted(registry.names())


@pytest.mark.parametrize("name", registry.names())
def test_the_source_says_what_the_class_says(name: str) -> None:
    card, cls = registry.card(name), registry.load(name)
    module = importlib.import_module(f"methods.{name}")
    public = [
        value
        for key, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, IncrementalMethod) and value.__module__ == module.__name__
        if not key.startswith("_")
    ]
    assert public == [cls] and card.cls == cls.__name__ and card.module == module.__name__
    assert card.file.name == f"{name}.py" and card.name == name
    assert card.doc == inspect.getdoc(module) and card.summary and len(card.summary) <= 120
    assert f"make bench METHOD={name}" in card.doc and cls.__doc__
    assert card.defaults == defaults(cls)
    assert card.flags == {flag: getattr(cls, flag) for flag in registry.FLAGS}
    assert card.presets == getattr(module, "PRESETS", {}) and card.version == cls.version


@pytest.mark.parametrize("name", registry.names())
def test_arguments_are_keywords_with_defaults_that_are_stored(name: str) -> None:
    cls, card = registry.load(name), registry.card(name)
    method = cls()
    stored = [key for key in card.defaults if not hasattr(torch.nn.Module, key)]  # ``train`` is what a module does
    assert {key: getattr(method, key) for key in stored} == {key: card.defaults[key] for key in stored}
    assert len(card.defaults) - len(stored) <= 1
    for preset in card.presets.values():
        cls(**preset.get("method", {}))


@pytest.mark.parametrize("file", sorted(registry.methods_folder().glob("*.py")), ids=lambda f: f.stem)
def test_other_files_hold_no_method(file: Path) -> None:
    listed = file.stem in registry.names()
    cls = importlib.import_module(f"methods.{file.stem}" if file.stem != "__init__" else "methods")
    local = {n.name for n in ast.parse(file.read_text()).body if isinstance(n, ast.ClassDef)}
    methods = [n for n in local if issubclass(getattr(cls, n), IncrementalMethod) and n != "IncrementalMethod"]
    assert len(methods) == listed


def test_reading_the_cards_imports_no_torch() -> None:
    code = "import sys; from benchmark.config import registry as r; [r.card(n) for n in r.names()]; "
    code += "print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.strip() == "False"


ROOT = Path(__file__).resolve().parents[2]


def test_groups_follow_the_flags() -> None:
    assert {registry.card(name).group for name in SHIPPED if name != "joint_lora"} == {"plain"}
    assert registry.card("joint_lora").group == "joint"


@pytest.mark.parametrize(
    "typed, meant",
    [
        ("mslora-cr", "mslora_cr"),
        ("mslora", "mslora_cr"),
        ("ncm ", "ncm"),
        ("../ncm", "ncm"),
        ("zeroshot", "zero_shot"),
    ],
)
def test_a_misspelt_name_is_answered_with_the_nearest(typed: str, meant: str) -> None:
    with pytest.raises(UserError, match=f"did you mean '{meant}'"):
        registry.card(typed)


@pytest.mark.parametrize("typed", ["base", "experts", "backbones", "router", "__init__", "", "qqqqqqqq"])
def test_what_is_no_method_is_refused(typed: str) -> None:
    with pytest.raises(UserError, match="unknown method") as caught:
        registry.card(typed)
    assert "\n" not in str(caught.value)


# ---- plug-ins -----------------------------------------------------------------------------------------------------

MODULE = '''"""A plug-in.

make bench METHOD=plugged.inner.mine:Mine
"""

from methods.base import IncrementalMethod
from methods.mslora_cr import MSLoRACR
from plugged.root import Root

PRESETS = {"paper": {"lr": 1e-3, "method": {"width": 3}}}


class Mine(MSLoRACR):
    """Passes on what it does not know."""

    keeps_images = True

    def __init__(self, width: int = 2, *, rank: int = 5, scale: float = -1.5, names: tuple = ("a",), **kwargs) -> None:
        super().__init__(rank=rank, **kwargs)
        self.width, self.scale, self.names = width, scale, names


class Same(MSLoRACR):
    """No __init__ of its own."""


class Alone(Root):
    requires_task_id: bool = True

    def __init__(self, depth=None) -> None:
        super().__init__()
        self.depth = depth


class Below(Alone):
    keeps_images = True
    requires_task_id = False


class Long(IncrementalMethod):
    needs_length = True


class NoMethod:
    pass
'''
ROOT_MODULE = """from methods.base import IncrementalMethod


class Root(IncrementalMethod):
    pass
"""


@pytest.fixture
def plugged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package outside the tree, on sys.path."""
    folder = tmp_path / "plugged"
    (folder / "inner").mkdir(parents=True)
    for file, text in {"__init__": "", "root": ROOT_MODULE, "inner/__init__": "", "inner/mine": MODULE}.items():
        (folder / f"{file}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "plugged"]:
        monkeypatch.delitem(sys.modules, name)
    importlib.invalidate_caches()
    return folder


PLUGGED = {
    "Mine": "keeps images",
    "Same": "plain",
    "Alone": "needs identity",
    "Below": "keeps images",
    "Long": "needs length",
}


@pytest.mark.parametrize("cls", PLUGGED)
def test_a_class_outside_the_tree_works_the_same(plugged: Path, cls: str) -> None:
    name = f"plugged.inner.mine:{cls}"
    card, loaded = registry.card(name), registry.load(name)
    assert loaded.__name__ == card.cls == cls and issubclass(loaded, IncrementalMethod)
    assert card.defaults == defaults(loaded)
    assert card.flags == {flag: getattr(loaded, flag) for flag in registry.FLAGS}
    assert card.group == PLUGGED[cls]
    assert card.presets == {"paper": {"lr": 1e-3, "method": {"width": 3}}} and card.summary == "A plug-in."
    assert ":" not in card.name and "/" not in card.name  # it names a folder
    loaded(**card.defaults)


def test_inherited_defaults(plugged: Path) -> None:
    found = registry.card("plugged.inner.mine:Mine").defaults
    assert found["rank"] == 5 and found["width"] == 2 and found["scale"] == -1.5 and found["names"] == ("a",)
    assert found["similarity"] == "exp_fro"  # passed on through **kwargs
    assert registry.card("plugged.inner.mine:Alone").defaults == {"depth": None}


@pytest.mark.parametrize(
    "name, message",
    [
        ("plugged.inner.mine:NoMethod", "no IncrementalMethod subclass 'NoMethod'"),
        ("plugged.inner.mine:Missing", "no IncrementalMethod subclass 'Missing'"),
        ("plugged.inner.mine:", "no IncrementalMethod subclass ''"),
        ("plugged.inner.yours:Mine", "no module 'plugged.inner.yours'"),
        ("unplugged.mine:Mine", "no module 'unplugged.mine'"),
        (":", "no module ''"),
    ],
)
def test_a_wrong_plug_in_is_one_line(plugged: Path, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        registry.card(name)
    assert "\n" not in str(caught.value)


WRONG = {
    "is read without importing": "def __init__(self, size=SIZE): super().__init__()",
    r"Wrong\.joint is read": "joint = bool(SIZE)",
}


@pytest.mark.parametrize("message", WRONG)
def test_what_must_be_imported_to_be_known_is_refused(plugged: Path, message: str) -> None:
    text = (
        f"from methods.base import IncrementalMethod\nSIZE = 3\nclass Wrong(IncrementalMethod):\n    {WRONG[message]}\n"
    )
    (plugged / "wrong.py").write_text(text)
    class_source.parse.cache_clear()
    with pytest.raises(UserError, match=message):
        registry.card("plugged.wrong:Wrong")


@pytest.mark.parametrize(("said", "meant"), [("actng", "acting"), ("end_tasks", "end_task"), ("reprsent", "represent")])
def test_a_hook_that_is_misspelt_is_told_with_its_line(plugged: Path, said: str, meant: str) -> None:
    text = (
        "from methods.base import IncrementalMethod\n\n\nclass Wrong(IncrementalMethod):\n    def loss(self, batch):\n"
        f"        return {{}}\n\n    def {said}(self, *asked):\n        return 0\n"
    )
    file = plugged / "wrong.py"
    file.write_text(text.format("0"))
    class_source.parse.cache_clear()
    with pytest.raises(UserError, match=rf"wrong\.py:8: {said} is no hook .* did you mean '{meant}'\?"):
        registry.card("plugged.wrong:Wrong")
    file.write_text(text.format(f"self.{said}()"))  # a method of its own
    class_source.parse.cache_clear()
    assert registry.card("plugged.wrong:Wrong").cls == "Wrong"


def test_a_file_that_is_no_python_is_one_line(plugged: Path) -> None:
    (plugged / "broken.py").write_text("class Broken(:\n")
    with pytest.raises(UserError, match=r"broken\.py: no valid Python") as caught:
        registry.card("plugged.broken:Broken")
    assert "\n" not in str(caught.value)


def test_a_class_named_like_its_base_ends(plugged: Path) -> None:
    (plugged / "twin.py").write_text("from methods import ncm\nclass NCM(ncm.NCM):\n    pass\n")
    with pytest.raises(UserError, match="no IncrementalMethod subclass"):
        registry.card("plugged.twin:NCM")


# ---- the rules of the folder --------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(registry, "methods_folder", lambda: tmp_path)
    return tmp_path


METHOD = "from methods.base import IncrementalMethod\nfrom methods.ncm import NCM\n"


def test_two_public_methods_in_a_file_are_refused(folder: Path) -> None:
    (folder / "two.py").write_text(METHOD + "class One(IncrementalMethod):\n    pass\nclass Two(NCM):\n    pass\n")
    with pytest.raises(UserError, match=r"two\.py: a method file has one public .* found One, Two"):
        registry.card("two")


def test_helpers_beside_a_method_are_allowed(folder: Path) -> None:
    text = (
        "class _Hidden(IncrementalMethod):\n    pass\nclass Helper:\n    pass\nclass Mine(_Hidden):\n    joint = True\n"
    )
    (folder / "mine.py").write_text(METHOD + text)
    (folder / "helpers.py").write_text(METHOD + "class Helper:\n    pass\n")
    assert registry.names() == ["mine"]
    assert (registry.card("mine").cls, registry.card("mine").group) == ("Mine", "joint")


def test_a_new_file_is_a_method_at_once(folder: Path) -> None:
    assert registry.names() == []
    (folder / "ewc.py").write_text(METHOD + "class EWC(NCM):\n    pass\n")
    assert registry.names() == ["ewc"]
    with pytest.raises(UserError, match="did you mean 'ewc'"):
        registry.card("ew")


# ---- drafts -------------------------------------------------------------------------------------------------------

DRAFTS = {
    "brackets": ("class Broken(:\n", r"no valid Python: .*brackets\.py:1: class Broken"),
    "circle": ("class A(B):\n    pass\nclass B(A):\n    pass\n", "descend from each other in a circle"),
    "kinds": (
        METHOD + "class K(NCM):\n    kinds = ('clasification',)\n",
        r"kinds\.py:4: .*did you mean 'classification'",
    ),
    "letters": (METHOD + "class K(NCM):\n    kinds = 'fusion'\n", "kinds: expected a tuple"),
    "bare": (
        METHOD + "class K(NCM):\n    def __init__(self, size):\n        pass\n",
        r"K.__init__ \(line 4\): 'size' has no",
    ),
    "presets": (METHOD + "PRESETS = ['official']\nclass K(NCM):\n    pass\n", "PRESETS: expected name -> values"),
    "numbered": (METHOD + "class K(NCM):\n    version = 'two'\n", "version: expected a whole number"),
}


def test_a_draft_that_cannot_be_read_is_a_row_and_ends_no_other_command(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, (text, _) in DRAFTS.items():
        (folder / f"{name}.py").write_text(text)
    (folder / "gone.py").symlink_to(folder / "nowhere.py")
    (folder / "mine.py").write_text(METHOD + "class Mine(NCM):\n    pass\n")
    assert registry.names() == ["mine"] and registry.card("mine").cls == "Mine"
    assert sorted(registry.drafts()) == sorted([*DRAFTS, "gone"])
    for name, (_, message) in DRAFTS.items():
        with pytest.raises(UserError, match=message):
            registry.card(name)
    monkeypatch.setenv("COLUMNS", "300")
    assert cli.main(["list", "methods"]) == 0
    listed = capsys.readouterr().out
    assert [line.split()[0] for line in listed.split("\n") if line] == ["methods", *sorted([*DRAFTS, "gone", "mine"])]
    assert listed.count("cannot be read: ") == len(DRAFTS) + 1
    assert cli.main(["list", "methods", "--names"]) == 0
    assert capsys.readouterr().out.split() == ["mine"]
    (folder / "other.py").write_text("class Other:\n    pass\n")
    with pytest.raises(UserError, match=r"other\.py: no public class in it descends from IncrementalMethod"):
        registry.card("other")


# ---- files elsewhere ----------------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a method that imports the file beside it."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("ours", "beside_ours"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "beside_ours.py").write_text("SCALE = 2.0\n")
    (tmp_path / "ours.py").write_text(METHOD + "from beside_ours import SCALE\nclass Ours(NCM):\n    scale = SCALE\n")
    return tmp_path


def test_a_file_anywhere_is_a_method(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(elsewhere)
    for typed in ("ours.py", str(elsewhere / "ours.py"), "./ours.py", "ours.py:Ours"):
        assert registry.named(typed) == "ours:Ours" and registry.card(typed).name == "ours.Ours"
    assert registry.load("ours.py").scale == 2.0
    config, card, _ = arguments.parse("run", ["--method", "ours.py"], with_class=False)
    assert (config.method, card.name) == ("ours:Ours", "ours.Ours")
    code = provenance.fingerprint(ROOT, card.file, ["phantom"])
    (elsewhere / "beside_ours.py").write_text("SCALE = 3.0\n")
    assert provenance.fingerprint(ROOT, card.file, ["phantom"]) != code
    assert registry.named(str(ROOT / "methods" / "ewc.py")) == "ewc"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("nowhere.py", None, "no such file"),
        ("my-method.py", METHOD, "named by letters, digits and '_'"),
        ("json.py", METHOD, "Python has another module 'json' already"),
        ("plain_text.py", "SIZE = 3\n", "no public class in it descends from IncrementalMethod"),
        ("bare.py", "class Bare(NCM):\n    pass\n", r"line 1, class Bare\(NCM\): NCM is not imported"),
        (
            "wrong.py",
            METHOD.replace("ncm", "nmc") + "class Ours(NCM):\n    pass\n",
            r"class Ours\(NCM\): NCM is imported from methods.nmc, and no such",
        ),
        (
            "case.py",
            METHOD.replace("NCM", "Ncm") + "class Ours(Ncm):\n    pass\n",
            r"class Ours\(Ncm\): .*ncm.py: unknown class 'Ncm' .*NCM",
        ),
    ],
)
def test_a_file_that_is_no_method_is_one_line(elsewhere: Path, name: str, text: str | None, message: str) -> None:
    if text is not None:
        (elsewhere / name).write_text(text)
    with pytest.raises(UserError, match=message):
        registry.card(str(elsewhere / name))


def test_what_cannot_be_imported_names_its_line(elsewhere: Path) -> None:
    (elsewhere / "lacking.py").write_text(METHOD + "import nowhere_to_be_found\nclass Lacking(NCM):\n    pass\n")
    told = r"ModuleNotFoundError: No module named 'nowhere_to_be_found' \(.*lacking\.py:3: import nowhere_to_be_found\)"
    with pytest.raises(UserError, match=told):
        registry.load(str(elsewhere / "lacking.py"))

"""Arguments that are wrong or odd, of all verbs: refused in one line before anything is written, or meant as typed."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from benchmark import cli
from tests.refusals import written_below

Tally = Callable[..., None]
PLAN = "plan --method mslora_cr --stream smoke --device cpu "
GRID = "plan --methods ncm --streams smoke --device cpu "
HUGE = "x" * 600
NULL = "a\0b"

# what is typed behind PLAN, or a whole line that begins with its verb -> a part of the line that refuses it
REFUSED: list[tuple[str, str]] = [
    *[(f"--epochs {value}", "--epochs: expected a whole number") for value in (
        "1e3", "1_000", "٣", "0x10", "1:30", "nan", "true", "[1]", "-3", "0", "99999999999", "''", "' '", "2.0",
        "3,4")],
    ("--epochs null", "epochs"),
    ("--epochs", "expected one argument"),
    ("--batch_size 0", "--batch_size: expected a whole number of at least 1"),
    ("--batch_size 1000000000000", "--batch_size: expected a whole number of at most"),
    ("--seed 1180591620717411303424", "--seed: expected a whole number of at most"),
    ("--seed=", "--seed: expected a whole number"),
    ("--seed -1", "--seed: expected a whole number of at least 0"),
    ("--order 99999999999", "--order: expected a whole number of at most"),
    ("--limit 0", "--limit: expected a whole number of at least 1"),
    ("--limit -1", "--limit: expected a whole number of at least 1"),
    ("--limit 1e2", "--limit: expected a whole number"),
    *[(f"--lr {value}", "--lr: expected a number") for value in (
        "nan", "inf", "-inf", "1e400", "1e-400", "-0", "0", "1_0", "1,5", "''", "0x1", "one", "1e", ".", "1:30.5")],
    *[(f"--warmup {value}", "--warmup: expected a") for value in ("nan", "1", "-0.1", "1.5", "inf", "''")],
    *[(f"--weight_decay {value}", "--weight_decay: expected a number") for value in ("nan", "-1", "inf", "a")],
    ("--devices 0", "--devices: expected a whole number of at least 1"),
    ("--devices 99", "--devices 99: more than the 32 samples of a batch"),
    ("--devices two", "--devices: expected a whole number"),
    ("--devices 9999 --batch_size 100000", "--devices: expected a whole number of at most"),
    ("--optimizer ADAM", "unknown --optimizer 'ADAM'"),
    ("--optimizer ''", "unknown --optimizer ''"),
    ("--schedule step", "unknown --schedule"),
    ("--augment null", "unknown --augment"),
    ("--sampling x", "unknown --sampling"),
    ("--split train", "unknown --split"),
    ("--gallery x", "unknown --gallery"),
    ("--gallery all", "only retrieval has a gallery"),
    ("--inputs text", "only fusion can do without an input"),
    ("--precision 32", "unknown --precision"),
    ("--strategy fsdp", "unknown --strategy"),
    ("--logger none", "unknown --logger"),
    ("--logger ''", "unknown --logger"),
    ("--device ''", "unknown --device"),
    ("--device CPU", "unknown --device"),
    ("--device cuda:0", "unknown --device"),
    ("--force maybe", "force"),
    ("--force stray", "force"),
    ("--keep_images 1", "keep_images"),
    ("--quiet 2", "quiet"),
    ("--force_before yesterday", "--force_before: expected a time with its zone"),
    ("--force_before 2020-01-01", "--force_before: expected a time with its zone"),
    ("--results afile", "--results afile: no folder"),
    ("--results afile/x", "afile is no folder"),
    ("--results fifo", "--results fifo: no folder"),
    ("--results dangling", "--results dangling: no folder"),
    ("--results /dev/null", "--results /dev/null: no folder"),
    ("--results ''", "--results: expected a name"),
    ("--results ' '", "--results: expected a name"),
    (f"--results {HUGE}", "--results"),
    (f"--results {NULL}", "--results: expected a name"),
    ("--data nowhere", "--data nowhere: folder not found"),
    ("--data afile", "--data afile: folder not found"),
    ("--data ''", "--data: expected a name"),
    (f"--data {HUGE}", "folder not found"),
    (f"--data {NULL}", "--data: expected a name"),
    ("--data 'a\nb'", "folder not found"),
    ("--backbone ''", "--backbone: expected a name"),
    ("--backbone local-dir:", "no such folder"),
    ("--backbone local-dir:nowhere", "no such folder"),
    ("--backbone local-dir:afile", "no such folder"),
    ("--backbone local-dir:adir", "open_clip_config.json: file not found"),
    ("--backbone local-dir:fifos", "open_clip_config.json: no file but a fifo"),
    ("--backbone nonsense", "unknown --backbone 'nonsense'"),
    ("--backbone phantom-clop", "did you mean 'phantom-clip'?"),
    ("--backbone ViT-B-99/openai", "unknown --backbone"),
    ("--backbone hf-hub:", "expected hf-hub:OWNER/NAME"),
    ("--backbone hf-hub:../x", "expected hf-hub:OWNER/NAME"),
    ("--backbone http://x/y", "expected hf-hub:OWNER/NAME"),
    ("--backbone :", "expected hf-hub:OWNER/NAME"),
    (f"--backbone {NULL}", "--backbone: expected a name"),
    (f"--backbone {HUGE}", "unknown --backbone"),
    ("--backbone ViT-B-16 --pretrained nowhere.pt", "--pretrained nowhere.pt: file not found"),
    ("--backbone ViT-B-16 --pretrained no/where", "--pretrained no/where: file not found"),
    ("--backbone ViT-B-16 --pretrained fifo", "no file but a fifo"),
    ("--backbone ViT-B-16 --pretrained adir", "no file but a folder"),
    ("--backbone ViT-B-16 --pretrained ''", "--pretrained: expected a name"),
    ("--stream ''", "--stream: expected a name"),
    ("--stream=", "--stream: expected a name"),
    ("--stream fifo", "unknown stream 'fifo'"),
    ("--stream fifo.yaml", "fifo.yaml: no file but a fifo"),
    ("--stream adir", "unknown stream"),
    ("--stream ../streams/smoke", "unknown stream"),
    ("--stream SMOKE", "unknown stream"),
    ("--stream 'smo ke'", "unknown stream"),
    ("--stream smoke.yaml/", "smoke.yaml: file not found"),
    ("--stream /dev/zero", "unknown stream"),
    (f"--stream {HUGE}", "unknown stream"),
    (f"--stream {HUGE}.yaml", "not readable"),
    (f"--stream {NULL}", "--stream: expected a name"),
    ("--config nowhere.yaml", "--config nowhere.yaml: file not found"),
    ("--config adir", "no file but a folder"),
    ("--config fifo", "no file but a fifo"),
    ("--config /dev/zero", "no file but a device"),
    ("--config ''", "--config"),
    ("--config", "expected one argument"),
    ("--config good.yaml --config good.yaml", "--config: given twice"),
    ("--config=good.yaml --config good.yaml", "--config: given twice"),
    (f"--config {HUGE}", "not readable"),
    ("--preset nope", "unknown --preset 'nope'"),
    ("--preset ''", "unknown --preset ''"),
    ("--preset", "expected one argument"),
    *[(f"--method.rank {value}", "rank") for value in ("1.5", "nan", "null", "true", "''", "[1]", "{}", "1_0", "x")],
    ("--method.lora_alpha nan", "--method.lora_alpha: expected a number"),
    ("--method.lora_alpha 1e400", "--method.lora_alpha: expected a number"),
    ("--method.nope 1", "unknown argument '--method.nope'"),
    ("--method. 1", "--method."),
    ("--method.rank", "expected one argument"),
    ("--method.name", "expected one argument"),
    ("--epoch 3", "did you mean '--epochs'?"),
    ("--see 1", "did you mean '--seed'?"),
    ("--Epochs 3", "unknown argument"),
    ("--epochs+ 3", "unknown argument"),
    ("--method_args {}", "unknown argument"),
    ("--name x", "unknown argument"),
    ("--no_force", "unknown argument"),
    ("-x", "-x"),
    ("stray", "stray"),
    ("-- stray", "--"),
    *[(f"plan --method {name}", "method") for name in (
        "''", "' '", "'ncm '", "NCM", "../ncm", "ncm.py", "parts", "base", "__init__", "os.path:join", "nowhere:X", ":",
        ":X", "a:", ".x:Y", "a..b:C", "benchmark.cli:main", "methods.ncm:Nope", "[ncm]", "'{name: ncm}'", HUGE, NULL,
        "/etc/passwd", "'ncm\n'")],
    ("plan", "--method is missing"),
    ("plan --stream smoke", "--method is missing"),
    ("plan plan --method ncm", "plan"),
    ("run run --method ncm", "run"),
    ("run --method ncm --method ncn", "unknown method 'ncn'"),
    ("run --method ncm --results afile", "--results afile: no folder"),
    ("run --method ncm --stream smoke --data nowhere", "--data nowhere"),
    ("run --method ncm --stream smoke --backbone local-dir:", "no such folder"),
    # grids
    *[(f"--seeds {value}", "--seeds: expected") for value in (
        "''", "' '", "0,,1", ",", "0,", ",0", "1-", "0-3", "0-1000000000", "-1", "a", "1.0", "1e3", "٣", "0x1",
        "99999999999", "1_0", "0;1")],
    ("--orders ''", "--orders: expected"),
    ("--orders 0,,1", "--orders: expected"),
    ("--orders -1", "--orders: expected"),
    ("--streams ''", "--streams: expected"),
    ("--streams smoke,,smoke", "--streams: expected"),
    ("--streams smoke --streams nope", "unknown stream 'nope'"),
    ("sweep --methods '' --streams smoke", "--methods is missing"),
    ("sweep --methods ncm,,ncm --streams smoke", "--methods: expected values"),
    ("sweep --streams smoke", "--methods is missing"),
    ("sweep --methods ncm --streams smoke --seed 1", "--seed: sweep takes --seeds"),
    ("sweep --methods ncm --streams smoke --method ncm", "takes --methods"),
    ("sweep --methods ncm --streams smoke --force", "takes --redo"),
    ("sweep --methods ncm --streams smoke --redo some", "--redo"),
    ("sweep --methods ncm --streams smoke --jobs 0", "--jobs: expected a whole number of at least 1"),
    ("sweep --methods ncm --streams smoke --jobs two", "--jobs"),
    ("sweep --methods ncm --streams smoke --engine fog", "--engine"),
    ("sweep --methods ncm --streams smoke --results afile", "--results afile: no folder"),
    ("sweep --methods ncm --streams smoke --data nowhere", "--data nowhere: folder not found"),
    ("sweep --methods ncm --streams smoke --epochs ten", "--epochs: expected a whole number"),
    *[(f"--engine_args {value}", "--engine_args: ") for value in (
        "''", "5", "[]", "null", "{", "'{\"a\": 1}'", "'{\"a\": 1, \"a\": 2}'", "'{\"a\": NaN}'", "[" * 100_000)],
    *[(f"--engine slurm --engine_args {value}", "--engine_args: ") for value in (
        "'{\"partitoin\": \"x\"}'", "'{\"slurm_partitoin\": \"x\"}'", "'{\"cpus_per_task\": \"two\"}'",
        "'{\"cluster\": \"moon\"}'", "'{\"cluster\": [1]}'", "'{\"cpus_per_task\": 0}'", "'{\"timeout_min\": \"a\"}'")],
    # other verbs
    ("leaderboard --results afile", "--results afile: no folder"),
    ("leaderboard --results fifo", "--results fifo: no folder"),
    ("leaderboard --results ''", "--results: expected a name"),
    *[(f"{verb} --results nowhere", "--results nowhere: folder not found") for verb in (
        "leaderboard", "claims", "tuning", "report")],
    ("leaderboard --stream ''", "--stream: expected a name"),
    ("leaderboard --stream ../x", "no records of '../x'"),
    ("leaderboard --stream smoke", "no records of 'smoke'"),
    ("leaderboard stray", "stray"),
    ("leaderboard --results", "expected one argument"),
    ("report --results afile", "--results afile: no folder"),
    ("report --to afile", "--to afile: no folder"),
    ("report --to afile/x", "afile is no folder"),
    ("report --to fifo", "--to fifo: no folder"),
    ("report --to ''", "--to: expected a name"),
    ("report --stream nope", "no whole records"),
    ("report", "no whole records"),
    ("pretrain --to afile", "--to afile: no folder"),
    ("pretrain --to afile/x", "afile is no folder"),
    ("pretrain --to ''", "--to: expected a name"),
    ("pretrain --samples 10", "--samples"),
    ("pretrain --samples 1e6", "samples"),
    ("pretrain --epochs 0", "--epochs"),
    ("predict --run adir --images adir --to adir", "--to adir: a folder"),
    ("predict --run adir --images adir --to afile/x.csv", "afile is no folder"),
    ("predict --run adir --images adir --to fifo", "--to fifo: no file but a fifo"),
    ("predict --run adir --images '' --to x.csv", "--images: expected a name"),
    ("predict --run '' --images adir --to x.csv", "--run: expected a name"),
    ("predict --run adir --images adir --to ''", "--to: expected a name"),
    ("predict --run adir", "images"),
    ("predict --images adir", "required: run"),
    ("predict --run adir --images adir --top two", "--top: expected a whole number, got 'two'"),
    ("predict --run adir --images adir --inputs text", "--inputs: expected image, got 'text'"),
    ("export --run adir --task a --to afile", "--to afile: no folder"),
    ("export --run adir --task '' --to x", "--task: expected a name"),
    ("export --run adir --task a --to x --format onnx", "--format: expected peft or open_clip, got 'onnx'"),
    ("export --run adir --task a", "required: to"),
    ("merge --from ''", "--from: expected a name"),
    ("merge", "required: from"),
    ("merge --from adir --prefer mine", "--prefer"),
    ("merge --from adir --results afile", "--results afile: no folder"),
    ("verify --results afile", "--results afile: no folder"),
    ("verify --data nowhere", "--data nowhere: folder not found"),
    ("verify --run ''", "--run: expected a name"),
    ("list nothing", "unknown list"),
    ("list methods streams", "streams"),
    ("list ''", "what: expected a name"),
    ("show", "name"),
    ("show ''", "expected a name"),
    ("show nothing", "unknown name"),
    ("show ../streams/smoke", "unknown name"),
    ("show fifo.yaml", "no file but a fifo"),
    ("show latin.yaml", "not readable as YAML"),
    ("show adir", "unknown name"),
    ("check", "required: method"),
    ("check --method ''", "--method: expected a name"),
    ("check --method nope", "unknown method"),
    ("speed --methods ''", "--methods is missing"),
    ("speed --methods nope", "unknown method"),
    ("worker --x", "--x"),
    ("worker stray", "stray"),
    ("runn", "unknown verb"),
    ("''", "unknown verb ''"),
    ("RUN --method ncm", "unknown verb"),
    ("--method ncm", "unknown verb '--method'"),
    (HUGE, "unknown verb"),
]  # fmt: skip

# what a method or its backbone refuses when it is made, or the machine
RUN = "run --stream smoke --device cpu --results out "
OF_METHODS: list[tuple[str, str]] = [
    ("--method mslora_cr --method.rank 0", "rank 0: need at least 1"),
    ("--method mslora_cr --method.rank -1", "rank -1: need at least 1"),
    ("--method mslora_cr --method.dropout 1", "dropout 1.0: must be in [0, 1)"),
    ("--method mslora_cr --method.dropout -1", "dropout -1.0: must be in [0, 1)"),
    ("--method ewc --method.strength -1", "strength -1.0: need at least 0"),
    ("--method l2p --method.pool 0", "pool 0: need at least 1"),
    ("--method l2p --method.top_k 99999", "top_k 99999: must be in [1, 10]"),
    ("--method lpi --stream smoke_retrieval --method.prompts 0", "prompts 0: need at least 1"),
    ("--method moe_adapters --method.experts 0", "experts 0: need at least 1"),
    ("--method mslora_cr --devices 9000", "--devices: expected a whole number of at most"),
    ("--method mslora_cr --devices 4000 --batch_size 5000", "--devices 4000: there are"),
    ("--method ncm --backbone ViT-B-16/nope", "'nope' is not a known tag"),
    ("predict --run adir --images nowhere", "--images nowhere"),
    ("predict --run adir --images fifo", "--images fifo"),
    ("predict --run adir --images /dev/zero", "--images /dev/zero"),
    ("predict --run nowhere --images afile", "nowhere"),
    ("export --run nowhere --task a --to x", "nowhere"),
    ("verify --run nowhere", "nowhere"),
    ("merge --from nowhere", "nowhere"),
    ("speed --methods ncm --streams smoke --limit 0", "--limit"),
]

# what is typed behind PLAN or GRID -> what the plan then says
ACCEPTED: list[tuple[str, str]] = [
    (PLAN, "settings: the defaults"),
    (PLAN + "--epochs 010", "settings: epochs=10\n"),
    (PLAN + "--epochs +3", "settings: epochs=3\n"),
    (PLAN + "--epochs=7", "settings: epochs=7\n"),
    (PLAN + "--epochs 3 --epochs 4", "settings: epochs=4\n"),
    (PLAN + "--lr .5", "settings: lr=0.5\n"),
    (PLAN + "--lr=1e-3", "settings: lr=0.001\n"),
    (PLAN + "--lr 5E-3", "settings: the defaults"),
    (PLAN + "--lr 1", "settings: lr=1.0\n"),
    (PLAN + "--warmup 0", "settings: warmup=0.0\n"),
    (PLAN + "--limit null", "settings: the defaults"),
    (PLAN + "--seed 7 --seed 8", "seed8-order0"),
    (PLAN + "--seed 2147483647", "seed2147483647-order0"),
    (PLAN + "--order 2147483647", "order2147483647"),
    (PLAN + "--data data", "missing"),
    (PLAN + "--data adir", "missing"),
    (PLAN + "--results new/deep", "record: new/deep/runs/smoke"),
    (PLAN + "--results adir", "record: adir/runs/smoke"),
    (PLAN + "--method.rank 010", "settings: method.rank=10\n"),
    (PLAN + "--method.rank 4 --method.rank 8", "settings: the defaults"),
    (PLAN + "--method ncm", "ncm on smoke"),
    (PLAN + "--method=ncm", "ncm on smoke"),
    (PLAN + "--preset official", "method.rank=64"),
    (PLAN + "--preset official --method.rank 4", "method.rank=4"),
    (PLAN + "--force", "missing"),
    (PLAN + "--quiet yes", "missing"),
    (PLAN + "--logger null", "missing"),
    (PLAN + "--backbone ViT-B-16 --pretrained openai", "settings: pretrained=openai"),
    (PLAN + "--backbone hf-hub:microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224", "missing"),
    (PLAN + "--config good.yaml", "settings: epochs=3"),
    (PLAN + "--config=good.yaml --epochs 4", "settings: epochs=4"),
    (PLAN + "--config numbers.yaml", "settings: epochs=10 lr=0.001 weight_decay=0.5"),
    ("plan --device cpu --config whole.yaml", "ncm on smoke"),
    ("plan --device cpu --config preset.yaml", "method.rank=64"),
    ("plan --device cpu --config preset.yaml --epochs 5", "epochs=5"),
    (GRID + "--seeds 0,0", "1 cell:"),
    (GRID + "--seeds 0,1 --orders '0 1'", "4 cells:"),
    (GRID + "--seeds '0, 1,2'", "3 cells:"),
    (GRID + "--seeds 007", "1 cell:"),
    (GRID + "--streams 'smoke,smoke'", "1 cell:"),
]

CONFIGS: list[tuple[str, str]] = [  # the text of a config file, and what is said
    ("method: [ncm]", "method: expected its name"),
    ("method: 5", "method: expected its name"),
    ("method: null", "method: expected its name"),
    ("method: {name: [ncm]}", "method: expected its name"),
    ("method: {name: null}", "method: expected its name"),
    ("method: {nome: ncm}", "--method is missing"),
    ("method: ''", "unknown method"),
    ("epochs: 3", "--method is missing"),
    ("method: ncm\nepochs: ten", "epochs"),
    ("method: ncm\nepochs: [1, 2]", "epochs"),
    ("method: ncm\nepochs: {a: 1}", "epochs"),
    ("method: ncm\nepochs: 2.5", "epochs"),
    ("method: ncm\nepochs: true", "epochs"),
    ("method: ncm\nepochs: null", "epochs"),
    ("method: ncm\nepochs: 0", "--epochs"),
    ("method: ncm\nepochs: 99999999999999999999", "--epochs"),
    ("method: ncm\nepochs: 010", "written in decimal"),
    ("method: ncm\nepochs: 1:30", "written in decimal"),
    ("method: ncm\nlr: .nan", "lr"),
    ("method: ncm\nlr: .inf", "lr"),
    ("method: ncm\nlr: fast", "lr"),
    ("method: ncm\nseed: -1", "--seed"),
    ("method: ncm\nstream: [smoke]", "stream"),
    ("method: ncm\nstream: {a: 1}", "stream"),
    ("method: ncm\nstream: 5", "stream"),
    ("method: ncm\nstream: ''", "--stream: expected a name"),
    ("method: ncm\nresults: ''", "--results: expected a name"),
    ("method: ncm\nresults: null", "results"),
    ("method: ncm\nforce: maybe", "force"),
    ("method: ncm\naugment: no", "augment"),
    ("method: ncm\nconfig: good.yaml", "unknown key 'config'"),
    ("method: ncm\nprint_config: true", "unknown key 'print_config'"),
    ("method: ncm\nmethod_args: {rank: 4}", "unknown key 'method_args'"),
    ("method: ncm\nhelp: true", "unknown key 'help'"),
    ("method: ncm\nepoch: 3", "did you mean 'epochs'?"),
    ("method: ncm\nepochs: 3\nepochs: 4", "'epochs' stands twice"),
    ("method: ncm\npreset: [official]", "preset: expected its name"),
    ("method: mslora_cr\npreset: nope", "unknown --preset 'nope'"),
    ("method: ncm\nmethod.rank: 4", "unknown key 'method.rank'"),
    ("method: {name: mslora_cr, rank: [1]}", "rank"),
    ("method: {name: mslora_cr, rank: four}", "rank"),
    ("method: {name: mslora_cr, rank: null}", "--method.rank: expected a value, got null"),
    ("method: {name: mslora_cr, lora_alpha: .inf}", "lora_alpha"),
    ("method: {name: mslora_cr, lora_alpha: .nan}", "lora_alpha"),
    ("method: ncm\nforce: null", "--force: expected a value, got null"),
    ("method: {name: mslora_cr, rang: 4}", "rang"),
    ("method: {name: mslora_cr, name2: {a: {b: 1}}}", "name2"),
    ("- method: ncm", "expected keys and values"),
    ("ncm", "expected keys and values"),
    ("", "expected keys and values"),
    ("method: !!python/name:os.system x", "python/name"),
    ("a: &a [x, x]\nb: &b [*a, *a]\nmethod: *b", "unknown key 'a'"),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    monkeypatch.setenv("MBIL_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.chdir(tmp_path)
    Path("afile").write_text("x")
    Path("adir").mkdir()
    Path("fifos").mkdir()
    os.mkfifo("fifo")
    os.mkfifo("fifo.yaml")
    os.mkfifo("fifos/open_clip_config.json")
    Path("dangling").symlink_to("nothing")
    Path("latin.yaml").write_bytes("name: Größe".encode("latin-1"))
    Path("good.yaml").write_text("epochs: 3\n")
    Path("numbers.yaml").write_text("epochs: 10\nlr: 1e-3\nweight_decay: .5\n")
    Path("whole.yaml").write_text(yaml.safe_dump({"method": "ncm", "stream": "smoke"}))
    Path("preset.yaml").write_text(yaml.safe_dump({"method": "mslora_cr", "preset": "official", "stream": "smoke"}))
    return tmp_path


def words(line: str) -> list[str]:
    """As a shell would split them; a line of options alone goes behind the plan of a run, or of a grid."""
    first = line.split(" ")[0]
    if first.startswith(("--seeds", "--orders", "--streams", "--engine")):
        return shlex.split(GRID + line)
    behind = first.startswith("-") and first != "--method"
    return shlex.split(PLAN + line if behind or first == "stray" else line)


def told(argv: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int | str, str, str]:
    """Exit status, standard output and standard error."""
    try:
        status: int | str = cli.main(argv)
    except SystemExit as error:
        status = f"SystemExit {error.code}"
    except BaseException as error:  # what a user would see as a traceback
        status = f"{type(error).__name__}: {error}"[:300]
    return status, *capsys.readouterr()


def refusals(lines: list[tuple[str, list[str], str]], capsys: pytest.CaptureFixture[str], tally: Tally) -> None:
    wrong, before = [], written_below(Path.cwd())
    for name, argv, says in lines:
        status, out, err = told(argv, capsys)
        one_line = err.startswith("error: ") and err.count("\n") == 1 and err[:-1].isprintable() and len(err) < 2100
        if (status, out) != (2, "") or not one_line or says not in err:
            wrong.append(f"{name[:80]!r}: {status}, {err[:300]!r} instead of {says!r}")
        else:
            tally("refused in one line")
    after = written_below(Path.cwd())
    wrong += [f"written: {path}" for path in after.keys() | before.keys() if after.get(path) != before.get(path)]
    assert not wrong, "\n".join(wrong)


def accepted(lines: list[tuple[str, str]], capsys: pytest.CaptureFixture[str], tally: Tally) -> None:
    wrong, before = [], written_below(Path.cwd())
    for line, says in lines:
        status, out, err = told(shlex.split(line), capsys)
        if status != 0 or err or says not in out:
            wrong.append(f"{line!r}: {status}, {err!r}, {out[:400]!r} without {says!r}")
        else:
            tally("accepted as meant")
    assert written_below(Path.cwd()) == before
    assert not wrong, "\n".join(wrong)


def configured(text: str) -> list[str]:
    name = f"config{sum(text.encode())}-{len(text)}.yaml"
    Path(name).write_text(text)
    return ["plan", "--stream", "smoke", "--config", name]


@pytest.mark.usefixtures("folder")
def test_some_arguments(capsys: pytest.CaptureFixture[str], tally: Tally) -> None:
    refusals([(line, words(line), says) for line, says in REFUSED[::20]], capsys, tally)
    refusals([(text, configured(text), says) for text, says in CONFIGS[:5]], capsys, tally)
    accepted(ACCEPTED[1::16], capsys, tally)


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
def test_all_arguments(capsys: pytest.CaptureFixture[str], tally: Tally) -> None:
    refusals([(line, words(line), says) for line, says in REFUSED], capsys, tally)


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
def test_all_accepted_arguments_and_all_configs(capsys: pytest.CaptureFixture[str], tally: Tally) -> None:
    accepted(ACCEPTED, capsys, tally)
    refusals([(text, configured(text), says) for text, says in CONFIGS], capsys, tally)


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
def test_what_methods_refuse(capsys: pytest.CaptureFixture[str], tally: Tally) -> None:
    lines = [(line, shlex.split(RUN + line if line.startswith("-") else line), says) for line, says in OF_METHODS]
    refusals(lines, capsys, tally)

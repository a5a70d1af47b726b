# ruff: noqa: E501 (tables)
"""A net of bad inputs over every command, run in one process: what people, files and stores get wrong.

Each has to end with a non-zero exit status and exactly one line on standard error that names what is wrong,
and has to leave every file as it was. `make chaos` counts them with `try_all`; the tests run them one by one.
"""

import contextlib
import hashlib
import io
import json
import os
import shutil
import signal
import sys
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq

from mctrace.cli import app
from mctrace.collect.planning.trace_files import TRACES
from tests.cli.flags import set_flags
from tests.models import save_tiny_model

STORE = Path(__file__).parents[1] / "stores" / "v1-columns2" / "store.tar.xz"
_LONGEST = 700
"""Characters of a line that a person reads."""


@dataclass(frozen=True)
class BadInput:
    """A command line that cannot work, in a folder of its own, and what its refusal has to name."""

    arguments: tuple[str, ...]
    names: tuple[str, ...] = ()
    prepare: Callable[[Path], None] | None = None

    @property
    def title(self) -> str:
        shown = " ".join(one if len(one) < 40 else one[:40] + "…" for one in self.arguments)
        return shown.encode("unicode_escape").decode()


@dataclass(frozen=True)
class Unclear:
    """A bad input that was taken, or not refused as it should be."""

    title: str
    why: str
    errors: str


def try_all(folder: Path, inputs: Sequence[BadInput] | None = None) -> tuple[int, list[Unclear]]:
    """How many bad inputs were tried (`bad_inputs`), and those not clearly refused (`bad_inputs_unclear`)."""
    scene = set_up(folder)
    every = bad_inputs() if inputs is None else inputs
    found = [problem for bad in every if (problem := try_one(scene, bad))]
    return len(every), found


def set_up(folder: Path) -> Path:
    """A folder with a store, a tiny model and a corpus, from which every bad input gets what it needs."""
    scene = folder / "scene"
    scene.mkdir(parents=True)
    with tarfile.open(STORE) as archive:
        archive.extractall(scene, filter="data")
    save_tiny_model(scene / "model")
    (scene / "corpus").mkdir()
    for i in range(14):
        words = [f"{chr(97 + (i * 7 + j * j) % 26)}{(i + 3) * (j + 5) % 97}" for j in range(140)]
        (scene / "corpus" / f"text{i:02d}.txt").write_text(" ".join(words))
    return scene


def try_one(scene: Path, bad: BadInput) -> Unclear | None:
    """None where the input is clearly refused and nothing has changed."""
    if bad.prepare:
        bad.prepare(scene)
    before = _contents(scene)
    try:
        code, errors = _call(scene, bad.arguments)
    except Exception as error:  # what would be a stack trace
        return Unclear(bad.title, f"{type(error).__name__}: {error}"[:300], "")
    lines = [line for line in errors.splitlines() if line.strip()]
    why = ""
    if code == 0:
        why = "was taken"
    elif len(lines) != 1 or not lines[0].startswith("mctrace: "):
        why = f"{len(lines)} lines instead of one"
    elif len(lines[0]) > _LONGEST:
        why = f"a line of {len(lines[0])} characters"
    elif missing := [name for name in bad.names if name not in lines[0]]:
        why = f"does not name {', '.join(missing)}"
    elif changed := sorted(_contents(scene).symmetric_difference(before)):
        why = f"changed {changed[:3]}"
    return Unclear(bad.title, why, errors) if why else None


def _call(scene: Path, arguments: Sequence[str]) -> tuple[int, str]:
    errors, before = io.StringIO(), signal.getsignal(signal.SIGTERM)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MCTRACE_")}
    here = Path.cwd()
    os.chdir(scene)
    try:
        with (
            mock.patch.object(sys, "argv", ["mctrace", *arguments]),
            mock.patch.dict(os.environ, environment, clear=True),
            contextlib.redirect_stderr(errors),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            app.main()
        return 0, errors.getvalue()
    except SystemExit as stop:
        return int(stop.code or 0), errors.getvalue()
    finally:
        os.chdir(here)
        signal.signal(signal.SIGTERM, before)


def _contents(folder: Path) -> set[tuple[str, str]]:
    """Every file and folder by name and content; what a command leaves behind shows here."""
    found = set()
    for path in folder.rglob("*"):
        if path.is_file():
            digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.stat().st_size < 10**6 else "large"
            found.add((str(path.relative_to(folder)), digest))
        else:
            found.add((str(path.relative_to(folder)), ""))
    return found


TINY = {
    "model.name": "model", "corpus.paths": ("corpus",), "corpus.min_tokens": 128, "corpus.max_tokens": 320,
    "corpus.validation_fraction": 0.25, "corpus.test_fraction": 0.25, "tree.block_size": 4,
    "collect.horizon": 16, "collect.cursors_per_trajectory": 3, "collect.cursor_stride": 4,
    "collect.window": 128, "collect.recency_level_tokens": (16, 48), "collect.train_wc_length": 48,
    "collect.protected_tail": 8, "collect.max_actions": 8,
}  # fmt: skip

COLLECT = ("collect", "--no-ray", "--store", "new", *set_flags(TINY))
PLAN = ("plan", "--store", "new", *set_flags(TINY))
ON_STORE = ("--store", "store")


def bad_inputs() -> list[BadInput]:
    """All of them, in a fixed order."""
    return [
        *_options(), *_attributions(), *_values(), *_assignments(), *_files(), *_corpora(), *_models(), *_gists(), *_traces(),
        *_stores(), *_queries(), *_requests(),
    ]  # fmt: skip


COMMANDS: dict[str, tuple[str, ...]] = {
    "init": (), "plan": (), "collect": (), "log": (), "compact": (), "verify": (), "sql": ("select 1",),
    "derive": ("name", "--recipe", "levels"), "export": ("out",), "report": (), "show": ("abc",), "train": (),
    "evaluate": ("runs/none",), "gist train": (), "gist evaluate": ("mean",),
    "gist ceiling": (),
}  # fmt: skip


def _options() -> Iterator[BadInput]:
    for command, arguments in COMMANDS.items():
        words = (*command.split(), *arguments)
        yield BadInput((*words, "--nonsense"), ("--nonsense", "--help"))
        yield BadInput((*words, "--set"), ("--set", "--help"))
        if command != "init":  # it writes the file that is not there
            yield BadInput((*words, "--config", "none.toml"), ("none.toml", "mctrace init"))
            yield BadInput((*words, "--set", "collect.horizon=0"), ("collect.horizon",))
    for command in ("log", "verify", "report", "train", "derive", "sql"):
        words = (command, *COMMANDS[command])
        yield BadInput((*words, "--version", "-1"), ("--version",))
        yield BadInput((*words, "--version", "two"), ("--version",))
        yield BadInput((*words, *ON_STORE, "--version", "99999"), ("99999", "versions are 0 to"))
    yield BadInput(("nonsense",), ("nonsense",))
    yield BadInput(("gist", "nonsense"), ("nonsense",))
    yield BadInput(("log", "extra"), ("extra",))
    for words in (("verify", "--grace", "-1"), ("verify", "--grace", "nan"), ("collect", "--actors", "0"),
                  ("collect", "--actors", "x"), ("collect", "--limit", "1"), ("plan", "--limit", "-5"),
                  ("collect", "--dtype", "int3"), ("show", "abc", "--top", "0")):  # fmt: skip
        yield BadInput(words, (words[-2].removeprefix("--"),))


def _attributions() -> Iterator[BadInput]:
    model = ("--model", "model")
    contents = {
        "empty": b"",
        "blank": b" \n\t",
        "nul": b"a. b.\0",
        "latin": b"caf\xe9. Two.",
        "long": b"A b. " * 200,
    }
    words = {
        "empty": "is empty",
        "blank": "is empty",
        "nul": "is binary",
        "latin": "not UTF-8",
        "long": "512 positions",
    }
    for name, content in contents.items():
        file = f"{name}.text"
        yield BadInput(("attribute", file, *model), (words[name],), _text(file, content))
    for file, word in {"nowhere": "No such file", "corpus": "directory", "a\0b": "null", "x" * 300: "too long",
                       "": "cannot read"}.items():  # fmt: skip
        yield BadInput(("attribute", file, *model), (word,))
    text = ("attribute", "fine.text", *model)
    fine = _text("fine.text", b"One. Two. Three.")
    for flags, word in {
        ("--unit", "word"): "paragraph", ("--against", "mask"): "gist", ("--target", ""): "target is empty",
        ("--target", " "): "target is empty", ("--estimator", "best"): "exact",
        ("--unit", "line"): "nothing follows", ("--unit", "line", "--against", "gist"): "has no gist",
        ("--against", "gist"): "single block", ("--block-size", "1"): "--block-size", ("--top", "0"): "--top",
        ("--against", "gist", "--block-size", "4", "--gists", "median"): "median", ("--out", "corpus"): "folder",
        ("--out", "corpus/text00.txt/x.html"): "cannot write", ("--dtype", "int3"): "dtype",
        ("--device", "abacus"): "abacus", ("--target", "x" * 600): "512 positions", ("--nonsense",): "--nonsense",
        ("--threads", "0"): "--threads",
    }.items():  # fmt: skip
        yield BadInput((*text, *flags), (word,), fine)
    yield BadInput(("attribute", "fine.text", "--model", "no/such-model"), ("no/such-model",), fine)
    yield BadInput(("attribute",), ("file",))


VALUES = (
    "store.uri=", "store.uri= ", "store.mix=['x']", "store.skip_damaged=maybe", "model.name=", "model.dtype=x",
    "model.dtype=5", "model.revision=", "gists.source=", "tree.block_size=1", "tree.block_size=-32",
    "tree.block_size=inf", "tree.block_size=1.5", "tree.max_level=0", "tree.max_level=9", "corpus.paths=5",
    "corpus.paths=['']", "corpus.limit=2", "corpus.min_tokens=0", "corpus.max_tokens=1", "corpus.seed=-1",
    "corpus.validation_fraction=nan", "corpus.validation_fraction=0", "corpus.test_fraction=0.9",
    "corpus.test_fraction=-inf", "corpus.near_duplicate_threshold=1.5", "corpus.strict=2",
    "collect.policies=[]", "collect.policies=['best']", "collect.policies=['lensnet']", "collect.horizon=-1",
    "collect.horizon=true", "collect.horizon=1e400", "collect.horizon=many", "collect.cursor_stride=0",
    "collect.cursors_per_trajectory=100000", "collect.last_tokens=0", "collect.window=0",
    "collect.lod0_window=-5", "collect.recency_level_tokens=[]", "collect.recency_level_tokens=[-1]",
    "collect.recency_level_tokens=[1, 2, 3, 4, 5]", "collect.recency_level_tokens=[nan]",
    "collect.train_wc_length=0", "collect.lensnet_refocuses=0", "collect.lensnet_temperature=-1",
    "collect.lensnet_temperature=nan", "collect.random_variant_iterations=0", "collect.protected_tail=-1",
    "collect.max_actions=0", "collect.action_sampling=odd", "collect.estimator=best",
    "collect.estimator_window=-1", "collect.min_audit_spearman=2", "collect.min_audit_spearman=nan",
    "collect.audit_fraction=1.5", "collect.drop_controls=perhaps", "collect.joint_size=1",
    "collect.batch_tokens=0", "collect.batch_tokens=some", "collect.seed=-7", "collect.seed=99999999999999999999",
    "ray.address=", "ray.actors=0", "ray.num_cpus=0", "ray.num_cpus=nan", "ray.num_gpus=-1", "ray.num_gpus=inf",
    "ray.max_attempts=0", "train.batch_size=0", "train.seed=-1", "train.device=abacus", "train.precision=half",
    "train.wandb=always", "train.target=", "train.network.name=cnn", "train.network.d_lens=0",
    "train.network.num_heads=0", "train.network.dropout=nan", "train.network.score_limit=0",
    "train.objective.name=guess", "train.objective.rank_weight=-1", "train.objective.rank_margin=nan",
    "train.objective.budget=free", "train.optimiser.learning_rate=0", "train.optimiser.learning_rate=nan",
    "train.optimiser.betas=[2, 3]", "train.optimiser.total_steps=0", "train.optimiser.gradient_clip=0",
    "allocator.num_edits=-1", "allocator.temperature=nan", "allocator.reversal_threshold=0",
    "closed_loop.policies=['magic']", "closed_loop.w_max=0", "closed_loop.horizon=0", "closed_loop.skip=-1",
    "gist_train.seed=-1", "gist_train.network.pooling=max", "gist_train.objective.min_replaced=2",
    "gist_train.rarity.learning_rate=0", "gist_evaluate.horizons=[0]", "gist_ceiling.places=[\"nowhere\"]",
    "gist_ceiling.window_tokens=64", "key_value_train.anchors=[0]", "key_value_train.min_replaced=0.8",
    "gist_evaluate.shares=[2.0]",
)  # fmt: skip


def _values() -> Iterator[BadInput]:
    for assignment in VALUES:
        yield BadInput(("log", "--set", assignment), (assignment.partition("=")[0],))


def _assignments() -> Iterator[BadInput]:
    for text in ("horizon", "=5", "", "collect.horizn=5", "collect=5", "a.b.c.d=1", "collect.horizon.x=1",
                 "COLLECT.HORIZON=5", "\n=1", "sto\0re.uri=x"):  # fmt: skip
        yield BadInput(("log", f"--set={text}"))


def _text(name: str, content: bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)

    return write


def _files() -> Iterator[BadInput]:
    contents = {
        "broken": b"[collect\n", "latin": b'[store]\nuri = "\xe9"\n', "binary": bytes(range(256)),
        "key": b"[collect]\nhorizn = 3\n", "section": b"[colect]\nhorizon = 3\n", "scalar": b"collect = 3\n",
        "twice": b"[store]\nuri = 'a'\nuri = 'b'\n", "type": b"[collect]\nhorizon = 'x'\n",
        "table": b"[collect.horizon]\nx = 1\n", "nan": b"[corpus]\ntest_fraction = nan\n",
        "date": b"[collect]\nhorizon = 2020-01-01\n", "empty": b"[store]\nuri = ''\n",
    }  # fmt: skip
    for name, content in contents.items():
        yield BadInput(("log", "--config", f"{name}.toml"), (), _text(f"{name}.toml", content))
    yield BadInput(("log", "--config", "corpus"), ("corpus",))
    yield BadInput(("log", "--config", "x" * 5000), ("cannot be read",))


def _corpora() -> Iterator[BadInput]:
    def make(name: str, **files: bytes) -> Callable[[Path], None]:
        def prepare(folder: Path) -> None:
            (folder / name).mkdir(exist_ok=True)
            for file, content in files.items():
                (folder / name / file.replace("_", ".")).write_bytes(content)

        return prepare

    def special(folder: Path) -> None:
        if not (folder / "pipe").exists():
            os.mkfifo(folder / "pipe")
            (folder / "loop").symlink_to("loop")

    paths = {
        "nowhere": "does not exist", "": "empty", "x" * 300: "too long", "y/" * 3000: "too long",
        "~nobody-of-this-name": "home", "line\nbreak": "does not exist", "caf\udce9": "does not exist",
        "model/model.safetensors": ".safetensors", "recall:": "recall:", "recall:nowhere": "nowhere",
        "pipe": "neither", "loop": "symbolic", "/dev/null": "neither", "pydoc-topic": "does not exist",
    }  # fmt: skip
    for path, word in paths.items():
        yield BadInput((*COLLECT, "--corpus", path), (word,), special)
        yield BadInput((*PLAN, "--corpus", path), (word,), special)
    bad = {
        "none": {}, "blank": {"a_txt": b" \n"}, "bytes": {"a_txt": b"\xff\xfe"}, "nul": {"a_txt": b"a\0b" * 99},
        "other": {"a_png": b"png"}, "short": {"a_txt": b"too short"}, "rows": {"a_jsonl": b"{\n[]\n7\n"},
        "alone": {"a_txt": b"one document of many words " * 60},
    }  # fmt: skip
    for name, files in bad.items():
        yield BadInput((*COLLECT, "--corpus", name), (), make(name, **files))
        yield BadInput((*COLLECT, "--corpus", name, "--strict"), (), make(name, **files))
    yield BadInput((*COLLECT, "--set", "collect.horizon=900"), ("lower collect.horizon",))
    wide = ("--set", "collect.window=1000", "--set", "corpus.max_tokens=2000")
    yield BadInput((*COLLECT, *wide), ("positions", "collect.window"))
    mixed = make("mixed", a_jsonl=b'{"text": "fine"}\n{"tex')
    yield BadInput((*COLLECT, "--corpus", "mixed", "--strict"), ("a.jsonl:2", "not JSON"), mixed)


def _models() -> Iterator[BadInput]:
    def changed(name: str, change: Callable[[Path], object]) -> Callable[[Path], None]:
        def prepare(folder: Path) -> None:
            shutil.copytree(folder / "model", folder / name, dirs_exist_ok=True)
            change(folder / name)

        return prepare

    def rewrite(file: str, content: bytes) -> Callable[[Path], object]:
        return lambda model: (model / file).write_bytes(content)

    def remove(file: str) -> Callable[[Path], object]:
        return lambda model: (model / file).unlink(missing_ok=True)

    def config(**values: object) -> Callable[[Path], object]:
        def write(model: Path) -> None:
            found = json.loads((model / "config.json").read_text())
            (model / "config.json").write_text(json.dumps({**found, **values}))

        return write

    changes: dict[str, Callable[[Path], object]] = {
        "no-config": remove("config.json"), "no-weights": remove("model.safetensors"),
        "no-tokenizer": remove("tokenizer.json"), "config-text": rewrite("config.json", b"hello"),
        "config-list": rewrite("config.json", b"[]"), "config-empty": rewrite("config.json", b""),
        "tokenizer-text": rewrite("tokenizer.json", b"{}"), "tokenizer-cut": rewrite("tokenizer.json", b'{"a'),
        "other-type": config(model_type="no-such-architecture", architectures=["NoSuchModel"]),
    }  # fmt: skip
    for name, change in changes.items():
        yield BadInput((*COLLECT, "--model", name), (name,), changed(name, change))
    for name in ("no/such-model", "nowhere", "a b c", "/", "../..", "x" * 300, "http://localhost/x"):
        yield BadInput((*COLLECT, "--model", name))
    for device in ("cuda:7", "abacus", "cuda:x", "meta"):
        yield BadInput((*COLLECT, "--device", device), (device,))


def _gists() -> Iterator[BadInput]:
    for source in ("nowhere", "os:nothing", "no.such.module:x", "corpus", "os:path", "median", ":", "a:b:c"):
        yield BadInput((*COLLECT, "--set", f"gists.source={source}"))
    yield BadInput(("gist", "evaluate", "nowhere", *ON_STORE, *set_flags(TINY)))
    yield BadInput(("gist", "train", "--corpus", "nowhere", "--out", "g", *ON_STORE, *set_flags(TINY)))
    for name, content in {"text": b"hello", "list": b"[]", "other": b'{"kind": "x"}', "empty": b"{}"}.items():
        prepare = _text(f"gist-{name}/config.json", content)
        yield BadInput((*COLLECT, "--set", f"gists.source=gist-{name}"), (), prepare)


def _traces() -> Iterator[BadInput]:
    def rows(name: str, count: int = 1, **changes: object) -> Callable[[Path], None]:
        good = {
            "source": "live", "tokenizer_hash": None, "document_id": None, "tokens": list(range(100)),
            "block_size": 4, "start": 0, "levels": [1] * 10, "cursors": [40],
        }  # fmt: skip

        def write(folder: Path) -> None:
            table = pa.Table.from_pylist([{**good, **changes}] * count, schema=TRACES)
            pq.write_table(table, folder / name)
            # What is rejected is listed beside the file: there already, so that nothing else may change.
            (folder / f"{name}.rejected.jsonl").unlink(missing_ok=True)

        return write

    yield BadInput((*COLLECT, "--traces", "none.parquet"), ("none.parquet",))
    yield BadInput((*COLLECT, "--traces", "corpus"), ("corpus",))
    yield BadInput((*COLLECT, "--traces", "t.parquet"), ("t.parquet",), _text("t.parquet", b"hello"))
    yield BadInput((*COLLECT, "--traces", "e.parquet"), ("no rows",), rows("e.parquet", 0))
    yield BadInput((*COLLECT, "--traces", "e.parquet", "--corpus", "corpus"), ("--traces",))

    def other_columns(folder: Path) -> None:
        pq.write_table(pa.table({"a": [1]}), folder / "o.parquet")

    yield BadInput((*COLLECT, "--traces", "o.parquet"), ("lacks the columns",), other_columns)

    def other_types(folder: Path) -> None:
        columns = {name: ["x"] for name in TRACES.names}
        pq.write_table(pa.table(columns), folder / "y.parquet")

    yield BadInput((*COLLECT, "--traces", "y.parquet"), ("another type",), other_types)


def _stores() -> Iterator[BadInput]:
    def changed(name: str, change: Callable[[Path], object]) -> Callable[[Path], None]:
        def prepare(folder: Path) -> None:
            if not (folder / name).exists():
                shutil.copytree(folder / "store", folder / name)
                change(folder / name)

        return prepare

    def marker(content: bytes) -> Callable[[Path], object]:
        return lambda store: (store / "mctrace-store.json").write_bytes(content)

    def newest_entry(change: Callable[[Path], object]) -> Callable[[Path], object]:
        return lambda store: change(max((store / "ledger/_delta_log").glob("*.json")))

    def each_ledger_file(change: Callable[[Path], object]) -> Callable[[Path], object]:
        return lambda store: [change(file) for file in (store / "ledger").glob("*.parquet")]

    def each_part(pattern: str, change: Callable[[Path], object]) -> Callable[[Path], object]:
        return lambda store: [change(file) for file in (store / "parts").rglob(pattern)]

    def cut(file: Path) -> None:
        os.truncate(file, file.stat().st_size // 2)

    def garble(file: Path) -> None:
        file.write_bytes(b"\0" * file.stat().st_size)

    changes: dict[str, Callable[[Path], object]] = {
        "marker-text": marker(b"hello"), "marker-empty": marker(b""), "marker-list": marker(b"[]"),
        "marker-newer": marker(b'{"format_version": 7}'), "marker-none": marker(b"{}"),
        "marker-bytes": marker(b"\xff\xfe"),
        "marker-nan": marker(b'{"format_version": NaN}'),
        "no-ledger": lambda store: shutil.rmtree(store / "ledger"),
        "no-log": lambda store: shutil.rmtree(store / "ledger/_delta_log"),
        "log-text": newest_entry(lambda file: file.write_bytes(b"hello")),
        "log-cut": newest_entry(cut), "ledger-cut": each_ledger_file(cut), "ledger-zero": each_ledger_file(garble),
        "ledger-gone": each_ledger_file(Path.unlink), "parts-gone": lambda store: shutil.rmtree(store / "parts"),
        "effects-cut": each_part("effects.parquet", cut), "effects-gone": each_part("effects.parquet", Path.unlink),
        "runs-cut": each_part("runs.parquet", cut), "documents-gone": each_part("documents.parquet", Path.unlink),
    }  # fmt: skip
    commands: tuple[tuple[str, ...], ...] = (
        ("log",), ("sql", "select count(*) from labels"), ("verify",), ("train", "--out", "run", *SHORT),
        ("export", "exported"), ("report", "--out", "r.html"),
    )  # fmt: skip
    for name, change in changes.items():
        for command in commands:
            yield BadInput((*command, "--store", name), (), changed(name, change))
    for uri in ("nowhere", "corpus", "corpus/text00.txt", "s4://bucket/x", "/dev/null", "x" * 300, "line\nbreak",
                "", "nowhere/\0"):  # fmt: skip
        for command in (("log",), ("sql", "select 1"), ("verify",), ("compact",)):
            yield BadInput((*command, "--store", uri))
    for uri in ("corpus", "corpus/text00.txt", "s4://bucket/x", "/dev/null/x", "/proc/x"):
        yield BadInput(("init", "--config", "made.toml", "--store", uri))


def _queries() -> Iterator[BadInput]:
    for sql in ("selec 1", "", ";", "select", "select 1; select 2", "drop view labels", "copy (select 1) to 'x.csv'",
                "select * from nothing", "select nothing from labels", "insert into labels values (1)",
                "attach 'x.db'", "select * from 'corpus/text00.txt'", "pragma database_list", "set threads=1",
                "select * from labels_at(999999)", "select 1 +", "explain selec", "install httpfs"):  # fmt: skip
        yield BadInput(("sql", *ON_STORE, sql))
    yield BadInput(("sql", *ON_STORE, "--file", "no.sql"), ("no.sql",))
    yield BadInput(("sql", *ON_STORE, "--file", "corpus"), ("corpus",))
    yield BadInput(("sql", *ON_STORE, "--file", "b.sql"), ("b.sql",), _text("b.sql", b"\xff\xfe select"))
    for out in ("a.docx", "noending", "corpus/text00.txt/a.csv", "corpus"):
        yield BadInput(("sql", *ON_STORE, "select 1", "--out", out))
    for variable in ("z", "=3", "a b=3"):
        yield BadInput(("sql", *ON_STORE, "select 1", "--var", variable), ("--var",))
    yield BadInput(("sql", *ON_STORE, "select 1", "--dataset", "none"), ("none",))


SHORT = set_flags(
    {"train.optimiser.total_steps": 1, "train.optimiser.warmup_steps": 0, "train.batch_size": 1}
)
"""Should a training start all the same, it ends soon."""


def _requests() -> Iterator[BadInput]:
    """What asks the store, or a checkpoint, for what it has not."""
    requests: tuple[tuple[str, ...], ...] = (
        ("derive", "x", "--recipe", "nothing"), ("derive", "", "--recipe", "levels"),
        ("derive", "a/b", "--recipe", "levels"), ("derive", "x", "--recipe", "none.sql"),
        ("derive", "x", "--recipe", "levels", "--seed", "x"), ("derive", "x", "--recipe", "levels", "--var", "q"),
        ("derive", "x", "--recipe", "levels", "--dataset", "none"),
        ("export", "corpus"), ("export", "out", "--format", "csv"), ("export", "out", "--target", "none"),
        ("export", "out", "--where", "nonsense ="), ("export", "out", "--where", "no_such_column = 1"),
        ("export", "corpus/text00.txt"), ("export", "store"),
        ("train", "--target", "none", "--out", "run"),
        ("train", "--target", "none.sql", "--out", "run"), ("train", "--preset", "huge", "--out", "run"),
        ("train", "--where", "nonsense =", "--out", "run"), ("train", "--where", "1 = 0", "--out", "run"),
        ("train", "--mix", "colours", "--out", "run"),
        ("train", "--dataset", "none", "--out", "run"), ("train", "--network", "cnn", "--out", "run"),
        ("evaluate", "none"), ("evaluate", "corpus"), ("evaluate", "corpus/text00.txt"),
        ("evaluate", "none", "--split", "middle"), ("evaluate", "store"),
        ("evaluate", "--closed-loop", "none", *set_flags(TINY)),
        ("report", "--run", "nowhere", "--out", "r.html"), ("report", "--checkpoint", "none", "--out", "r.html"),
        ("report", "--compare", "99999", "--out", "r.html"), ("report", "--snapshot", "none", "--out", "r.html"),
        ("report", "--out", "corpus"), ("report", "--out", "corpus/text00.txt/r.html"),
        ("show", "none"), ("show", ""), ("show", "%"), ("show", "none", "--checkpoint", "none"),
        ("verify", "--withdraw", "--quick"), ("verify", "--withdraw", "--version", "0"),
    )  # fmt: skip
    for request in requests:
        short = SHORT if request[0] == "train" else []
        yield BadInput((request[0], *ON_STORE, *short, *request[1:]))
    for name, files in {
        "check-empty": {}, "check-text": {"config.json": b"hello"}, "check-list": {"config.json": b"[]"},
        "check-weights": {"config.json": b"{}", "model.safetensors": b"hello"},
    }.items():  # fmt: skip

        def prepare(folder: Path, name: str = name, files: dict[str, bytes] = files) -> None:
            (folder / name).mkdir(exist_ok=True)
            for file, content in files.items():
                (folder / name / file).write_bytes(content)

        yield BadInput(("evaluate", name, *ON_STORE), (name,), prepare)
        yield BadInput(("report", "--checkpoint", name, "--out", "r.html", *ON_STORE), (name,), prepare)
        lensnet = ("--set", "collect.policies=['lensnet']", "--set", f"collect.lensnet_checkpoint={name}")
        yield BadInput((*COLLECT, *lensnet), (name,), prepare)

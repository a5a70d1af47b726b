"""Derived datasets: what each recipe keeps or makes, that it can be made again, and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from mctrace.datasets.batches.collate import ordered_batches
from mctrace.datasets.batches.label_reader import open_training_data
from mctrace.datasets.derived.derive import Derivation, derive
from mctrace.datasets.derived.recipe import RECIPES, Recipe, find_recipe, recipe_sql
from mctrace.datasets.sql.connection import connect, fetch_rows
from mctrace.datasets.sql.registry import read_sql
from mctrace.datasets.store.parts import write_part
from mctrace.datasets.store.store import Store, create_store, open_store
from mctrace.datasets.upkeep.verify import verify
from mctrace.errors import InputError
from mctrace.progress import Silent
from tests.datasets.making import effect_row, trajectory_row
from tests.datasets.synthetic import PROVENANCE, add_trajectory, document_arrays, synthetic_store

KEY = "snapshot_id, action, node_level, node_index"


def made(store: Store, recipe: str | Recipe, *, seed: int = 0, name: str = "made", dataset=None, **variables):
    """Derives and opens the dataset."""
    found = recipe if isinstance(recipe, Recipe) else find_recipe(recipe)
    derive(store, store.at().read_through(dataset), name, Derivation(found, seed, variables))
    return connect(store.at().read_through(name))


def labels(connection, where: str = "true") -> list[dict]:
    return fetch_rows(connection, f"from labels where {where} order by all")


def own(text: str) -> Recipe:
    return Recipe("own.sql", text)


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """Twelve training documents with uneven values, four cursors each, 7 actions a snapshot, in 12 parts."""
    store = synthetic_store(tmp_path_factory.mktemp("template"))
    generator, parts = np.random.default_rng(5), []
    for i in range(12):
        effects = [
            effect_row(f"trich{i}", action, 1, index, first_token=32, inclusion_probability=0.3,
                       delta_nll=generator.normal(size=16).astype(np.float32).tolist())
            for action, indices in (("expand", range(4)), ("collapse", range(4, 7)))
            for index in indices
        ]  # fmt: skip
        trajectory = trajectory_row(
            f"trich{i}", (1, 1, 1, 1, 0, 0, 0, 0), (32, 36, 40, 44), document_id=f"rich{i}", protected_tail=0
        )
        document = {**PROVENANCE, "document_id": f"rich{i}", "source": f"rich{i}.txt", "num_tokens": 64,
                    "split_group": f"rich{i}", "split": "train", "minhash": []}  # fmt: skip
        parts.append(write_part(
            store.location, part_id=f"rich{i}", kind="trajectory", run_id="run", arrays=document_arrays(i),
            tables={"documents": [document], "trajectories": [trajectory], "effects": effects},
        ))  # fmt: skip
    store.commit(parts)
    return Path(store.location.root)


def copy_of(template: Path, folder: Path) -> Store:
    return open_store(str(shutil.copytree(template, folder / "store")))


@pytest.fixture
def rich(template, tmp_path) -> Store:
    return copy_of(template, tmp_path)


def test_a_filter_keeps_rows_as_they_are(store):
    everything = labels(connect(store.at()))
    found = made(store, "significant", z=1)
    assert labels(found) == [row for row in everything if abs(row["delta_nll"]) > row["stderr"]]
    # the effect that only wobbles is not beyond its own noise
    assert {row["node_index"] for row in labels(found, "action = 'expand' and cursor = 32")} == {0}
    assert labels(found)[0].keys() == everything[0].keys()


def test_levels_distances_and_sources(store):
    everything = labels(connect(store.at()))
    assert labels(made(store, "levels", name="a", entry_levels=[2])) == [
        row for row in everything if row["entry_level"] == 2
    ]
    assert labels(made(store, "levels", name="b", actions=["collapse"], entry_levels=[0])) == [
        row for row in everything if row["action"] == "collapse"
    ]
    assert labels(made(store, "distances", name="c", min_distance=8, max_distance=12)) == [
        row for row in everything if 8 <= row["distance_to_cursor"] <= 12
    ]
    assert {row["source"] for row in labels(made(store, "sources", name="d", pattern="[ab].*"))} == {
        "a.txt",
        "b.txt",
    }


def test_above_noise_floor_needs_one(tmp_path):
    store = synthetic_store(tmp_path)
    with pytest.raises(InputError, match="measured no noise floor"):
        made(store, "above_noise_floor")


def test_stride_keeps_every_other_snapshot(rich):
    found = made(rich, "stride", stride=2)
    kept = fetch_rows(
        found, "select trajectory_id, list(distinct cursor order by cursor) as c from labels group by 1"
    )
    by_id = {row["trajectory_id"]: row["c"] for row in kept if row["trajectory_id"].startswith("trich")}
    assert {tuple(cursors) for cursors in by_id.values()} == {(32, 40), (36, 44)}


def test_jittered_labels_are_means_over_the_horizon_at_their_own_cursor(rich):
    found = made(rich, "jittered", jitter=3)
    rows = labels(found, "trajectory_id like 'trich%' and cursor % 4 <> 0")
    assert len({row["snapshot_id"] for row in rows}) > 12
    effects = {
        (row["trajectory_id"], row["action"], row["node_index"]): row["delta_nll"]
        for row in fetch_rows(connect(rich.at()), "from effects")
    }
    for row in rows:
        values = effects[row["trajectory_id"], row["action"], row["node_index"]]
        first = row["cursor"] - 32
        assert row["delta_nll"] == pytest.approx(np.mean(values[first : first + 4]), abs=1e-6)
        assert abs(row["cursor"] - min((32, 36, 40, 44), key=lambda c: abs(c - row["cursor"]))) <= 3
        assert row["split"] == "train"
    # The originals are all there, and a snapshot of its own knows its length.
    assert len(labels(found)) == len(labels(connect(rich.at()))) + len(rows)
    snapshots = fetch_rows(found, "select cursor, num_entries from snapshots where trajectory_id = 'trich0'")
    assert all(row["num_entries"] == 4 + row["cursor"] - 16 for row in snapshots)


def test_smoothing_adds_noise_to_training_copies_only(rich):
    found = made(rich, "smoothed", sigma=0.05)
    originals = {
        (r["snapshot_id"], r["action"], r["node_level"], r["node_index"]): r
        for r in labels(connect(rich.at()))
    }
    copies = labels(found, "snapshot_id like '%#smoothed'")
    assert {row["split"] for row in copies} == {"train"}
    differences = []
    for row in copies:
        original = originals[
            row["snapshot_id"].removesuffix("#smoothed"), row["action"], row["node_level"], row["node_index"]
        ]
        difference = row["value_of_detail"] - original["value_of_detail"]
        sign = -1 if row["action"] == "expand" else 1
        assert row["delta_nll"] - original["delta_nll"] == pytest.approx(sign * difference)
        differences.append(difference)
    (scale,) = fetch_rows(connect(rich.at()), read_sql("utility_scale.sql"))
    assert np.std(differences) == pytest.approx(0.05 * scale["scale"], rel=0.15)
    assert abs(np.mean(differences)) < 0.01 * scale["scale"]
    illegal = "from priced_target where utility * (case action when 'expand' then 1 else -1 end) < 0"
    assert fetch_rows(found, illegal) == []


def test_partial_windows_begin_later_where_a_node_begins_and_train(rich):
    found = made(rich, "partial_windows", min_share=0.3)
    copies = labels(found, "snapshot_id like '%@%'")
    starts = {row["snapshot_id"]: int(row["snapshot_id"].split("@")[1]) for row in copies}
    assert len(set(starts.values())) > 2
    for row in copies:
        assert row["cursor"] - row["distance_to_cursor"] - row["span_width"] >= starts[row["snapshot_id"]]
    data = open_training_data(rich.at().read_through("made"), utility_scale=1.0)
    shown = {s.snapshot_id: s.lod_map for s in data.snapshots("train")}
    for snapshot_id, start in starts.items():
        lod_map = shown[snapshot_id]
        assert lod_map.start == start
        whole = shown[snapshot_id.split("@")[0]]
        assert whole.start == 0
        assert len(lod_map.entries) < len(whole.entries)
        (row,) = fetch_rows(found, "from snapshots where snapshot_id = ?", snapshot_id)
        assert (row["start"], row["num_entries"]) == (start, len(lod_map.entries))
        (counted,) = fetch_rows(found, "select count(*) as n from entries where snapshot_id = ?", snapshot_id)
        assert counted["n"] == len(lod_map.entries)
    batches = list(ordered_batches(data, "train", 8))
    assert sum(len(batch) for batch in batches) == len(shown)


def test_balancing_makes_kinds_even_and_says_so(rich):
    count = "select action, entry_level, count(*) as n from labels where split = 'train' group by all"
    before = {(r["action"], r["entry_level"]): r["n"] for r in fetch_rows(connect(rich.at()), count)}
    found = made(rich, "balanced", ratio=10)
    after = {(r["action"], r["entry_level"]): r["n"] for r in fetch_rows(found, count)}
    assert max(before.values()) > 50 * min(before.values())
    assert max(after.values()) < 25 * min(after.values())
    weights = (
        "select sum(1 / inclusion_probability) as n from labels where split = 'train' and action = 'expand' "
        "and entry_level = 1"
    )
    weighted, whole = fetch_rows(found, weights), fetch_rows(connect(rich.at()), weights)
    assert weighted[0]["n"] == pytest.approx(whole[0]["n"], rel=0.35)
    for split in ("validation", "test"):
        assert labels(found, f"split = '{split}'") == labels(connect(rich.at()), f"split = '{split}'")


def test_a_filter_does_not_move_the_price_of_its_snapshots(rich):
    before = {
        r["snapshot_id"]: r["shadow_price"] for r in fetch_rows(connect(rich.at()), "from shadow_prices")
    }
    found = made(rich, "levels", actions=["expand"])
    after = fetch_rows(found, "from shadow_prices")
    assert len(after) > 40
    assert all(row["shadow_price"] == pytest.approx(before[row["snapshot_id"]], abs=1e-12) for row in after)
    alone = made(
        rich, own("select *, null::double as shadow_price from labels where action = 'expand'"), name="own"
    )
    prices = {row["snapshot_id"]: row["shadow_price"] for row in fetch_rows(alone, "from shadow_prices")}
    assert any(prices[row["snapshot_id"]] != row["shadow_price"] for row in after)


def test_spec_augmentation_copies_about_as_many_snapshots_as_the_specification(rich):
    found = made(rich, "spec_augmentation")
    (row,) = fetch_rows(
        found,
        "select count(distinct snapshot_id) filter (where snapshot_id like '%#smoothed') as smoothed, "
        "count(distinct snapshot_id) filter (where trajectory_id like 'trich%' and cursor % 4 <> 0 and "
        "snapshot_id not like '%#%') as jittered from labels where split = 'train'",
    )
    assert 4 <= row["smoothed"] <= 18  # of 50
    assert 6 <= row["jittered"] <= 30


def test_hard_pairs_are_the_closest_of_each_group(store):
    for name, loss in (("v0", 1.0), ("v1", 1.5), ("v2", 1.75), ("v3", 3.0)):
        policy = "variant_lod0" if name == "v0" else "variant_random"
        add_trajectory(
            store, name, "a", [], policy=policy, baseline_nll=[loss] * 4, variant_group="g", cursors=(32,)
        )
    found = made(store, "hard_pairs", k=2, min_strength=0.3)
    pairs = fetch_rows(
        found, "select better_snapshot_id b, worse_snapshot_id w, strength s from preference_pairs"
    )
    assert [(p["b"], p["w"], p["s"]) for p in pairs] == [("v0:32", "v1:32", 0.5), ("v0:32", "v2:32", 0.75)]
    assert labels(found) == labels(connect(store.at()))


def test_a_recipe_may_read_another_dataset(rich):
    made(rich, "levels", name="expands", actions=["expand"])
    found = made(rich, "significant", name="sure", dataset="expands", z=2)
    assert labels(found) == [
        row for row in labels(connect(rich.at())) if row["action"] == "expand"
        and abs(row["delta_nll"]) > 2 * max(row["stderr"], row["hac_stderr"])
    ]  # fmt: skip
    (row,) = fetch_rows(found, "from datasets where name = 'sure'")
    assert row["parent_dataset"] == "expands"
    lineage = rich.at().datasets["sure"].lineage
    assert lineage == (f"version:{row['parent_version']}", f"dataset:{rich.at().datasets['expands'].part_id}")


@pytest.mark.parametrize(
    "recipe", [name for name in RECIPES if name not in ("above_noise_floor", "hard_pairs")]
)
def test_the_same_version_recipe_and_seed_make_the_same_bytes(template, tmp_path, recipe):
    first, second = (copy_of(template, tmp_path / name) for name in ("first", "second"))
    version = first.ledger.version()
    parts = [
        derive(store, store.at(version), name, Derivation(find_recipe(recipe), 7))
        for store, name in ((first, "one"), (first, "two"), (second, "one"))
    ]
    hashes = {file.sha256 for part in parts for file in part.files if file.path == "derived_labels.parquet"}
    assert len(hashes) == 1


def test_bytes_do_not_depend_on_the_number_of_threads(rich, monkeypatch):
    store, version, hashes = rich, rich.at(), set()
    for threads in (1, 2, 4, 8):
        monkeypatch.setattr("os.cpu_count", lambda count=threads: count)
        part = derive(store, version, f"with{threads}", Derivation(find_recipe("spec_augmentation"), 7))
        hashes.add(next(file.sha256 for file in part.files if file.path == "derived_labels.parquet"))
    assert len(hashes) == 1


def test_another_seed_draws_otherwise(rich):
    first, second = (labels(made(rich, "balanced", seed=s, name=f"s{s}", ratio=10)) for s in (0, 1))
    assert first != second


def test_a_dataset_is_a_part_with_its_recipe_and_lineage(store):
    version = store.at().version
    made(store, "significant", seed=3, z=1)
    after = store.at()
    part = after.datasets["made"]
    assert (part.kind, part.lineage) == ("dataset", (f"version:{version}",))
    (row,) = fetch_rows(connect(after), "from datasets")
    assert row["recipe"] == recipe_sql("significant")
    assert row["recipe_hash"] == find_recipe("significant").content_hash
    assert (row["seed"], json.loads(row["variables"]), row["parent_version"]) == (3, {"z": 1}, version)
    assert list(verify(after, quick=False, progress=Silent())) == []
    with pytest.raises(InputError, match="there is none"):
        store.at(version).read_through("made")
    with pytest.raises(InputError, match="there is made"):
        after.read_through("mad")
    # The store's own labels are as they were.
    assert labels(connect(after)) == labels(connect(store.at(version)))


def test_deriving_again_makes_nothing_new_and_a_taken_name_is_refused(store):
    made(store, "significant", z=1)
    version = store.at().version
    made(store, "significant", z=1)
    assert store.at().version == version
    with pytest.raises(InputError, match="already, of another version, recipe or seed"):
        made(store, "significant", z=2)
    with pytest.raises(InputError, match="letters, digits"):
        made(store, "significant", name="no/path")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("select * from labels where random() < 0.5", "uses random"),
        ("select * from labels using sample 10", "one of DuckDB's samples"),
        ("select * from labels where now() is null", "uses now"),
        ("select snapshot_id, action from labels", "it lacks run_id"),
        ("select *, 1 as extra from labels", "besides extra"),
        ("from labels where false", "gives no rows"),
        ("from labels union all from labels", "an action is there twice"),
        ("select * replace ('train' as split) from labels", "split is not the store's"),
        ("select * replace (cursor + 100 as cursor) from labels", "cursor that was not measured"),
        ("select *, 4 as start from labels", "begin where no node"),
        ("select * replace (null::double as value_of_detail) from labels", "without a snapshot"),
        ("select * replace (0 as inclusion_probability) from labels", "probability"),
        ("drop view labels", "only queries"),
        ("copy labels to '/tmp/mctrace-stolen.parquet'", "only queries"),
        ("from read_text('/etc/passwd')", "only queries"),
        ("from labels; from labels", "expected one"),
        ("selec 1", "does not parse"),
        ("from labels_at(99)", "outside 1 to 4"),
    ],
)
def test_a_recipe_that_cannot_be_kept_is_refused_and_leaves_nothing(store, text, words):
    before = store.at().version
    with pytest.raises(InputError, match=words):
        made(store, own(text))
    assert store.at().version == before
    assert not list(Path(store.location.path("staging")).iterdir())


def test_unknown_recipes_and_variables_are_named(store):
    with pytest.raises(InputError, match=r"above_noise_floor, .*significant"):
        find_recipe("signifcant")
    with pytest.raises(InputError) as told:
        find_recipe("x/nope.sql")
    assert str(told.value) == "no recipe 'x/nope.sql': there is no such file, here or in recipes/"
    with pytest.raises(InputError, match="no variable 'zz'; it reads horizon, z"):
        made(store, "significant", zz=1)


def test_own_recipes_are_found_by_name(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/mine.sql").write_text("-- mine\nfrom labels where cursor = 36;\n")
    assert {row["cursor"] for row in labels(made(store, "mine"))} == {36}


def test_a_dataset_has_the_horizon_it_was_derived_at(store):
    found = made(store, own("from labels_at(2)"))
    assert {row["horizon"] for row in labels(found)} == {2}
    assert len(fetch_rows(found, "from labels_at(2)")) == len(labels(found))
    with pytest.raises(Exception, match="derived at 2"):
        fetch_rows(found, "from labels_at(4)")


def test_a_quote_in_the_store_s_path_is_a_letter_like_any_other(store, tmp_path):
    quoted = tmp_path / "o'brien" / "store"
    shutil.copytree(store.location.root, quoted)
    assert len(labels(made(open_store(str(quoted)), "significant", z=1))) > 0


def test_a_damaged_store_is_named_with_what_helps(store):
    *_, part = (c.part for c in store.at().parts if c.part.num_rows.get("effects"))
    file = Path(store.location.root) / part.folder / "effects.parquet"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"(?s)effects\.parquet.*to be put back from a copy"):
        made(store, "significant", z=1)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_says_on_top_what_it_keeps(name):
    first, *_ = recipe_sql(name).splitlines()
    assert first.startswith(f"-- {name}: ")


def test_a_store_that_moved_reads_its_datasets(store, tmp_path):
    made(store, "significant", z=1)
    moved = tmp_path / "moved"
    shutil.copytree(store.location.root, moved)
    assert len(labels(connect(open_store(str(moved)).at().read_through("made")))) > 0
    assert create_store(str(moved)).at().datasets.keys() == {"made"}

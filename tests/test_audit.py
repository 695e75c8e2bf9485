"""An audit and the subsets that follow from it, on embeddings that tell which pairs are wrong."""

import csv
import io
import sys
import tarfile

import commands
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from small_shards import example, write_shard

from jest_tf import audit, curate
from jest_tf.data import near_duplicates
from jest_tf.data.manifest import Manifest, Source
from jest_tf.data.records import shard_records
from jest_tf.data.reference_cache import CacheWriter
from jest_tf.monitoring import audit as audit_rows

N, PER_SHARD, D = 120, 20, 16
WRONG = set(range(5, N, 6))  # their text is another pair's
TWINS = {60: 0, 61: 1}  # picture and caption of the pair with this number
NEAR = {70: 2}  # nearly its picture
UNREADABLE, NO_CAPTION = 33, 34


def picture(number):
    pixels = np.random.default_rng(number).integers(0, 256, [8, 8, 3], dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def key(number):
    return f"{number // 50:05d}.tar:{number:032x}"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two sources; the ids of records are their numbers."""
    folder = tmp_path_factory.mktemp("data")
    shards = []
    for first in range(0, N, PER_SHARD):
        records = []
        for n in range(first, first + PER_SHARD):
            of = TWINS.get(n, n)
            captions = [] if n == NO_CAPTION else ["", f"pair {of}"]
            one = example(id=n, key=key(n), image=picture(of), captions=captions)
            records.append(b"\xff" if n == UNREADABLE else one)
        path = folder / f"{first:03d}.tfrecord"
        shards.append(write_shard(path, records, source=int(first >= N // 2)))
    sources = Source("a", id="id", key="key"), Source("b", id="id", key="key")
    Manifest("pairs", sources, tuple(shards)).save(str(folder / "manifest.json"))
    return folder


@pytest.fixture(scope="module")
def cache(data, tmp_path_factory):
    """The reference's embeddings: text beside its picture, or beside another one's."""
    manifest = Manifest.load(str(data / "manifest.json"))
    writer = CacheWriter(
        str(tmp_path_factory.mktemp("cache")), manifest, identity={"model": "made"}, dim=D,
        scale=10.0, bias=-5.0,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    zimg = rng.normal(size=[N, D])
    for n, of in (TWINS | NEAR).items():
        zimg[n] = zimg[of]
    zimg[list(NEAR)] += 0.02
    ztxt = zimg + 0.5 * rng.normal(size=[N, D])
    ztxt[list(WRONG)] = rng.normal(size=[len(WRONG), D])
    zimg, ztxt = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (zimg, ztxt))
    for shard in range(len(manifest.shards)):
        rows = [
            (record.id, zimg[n], np.stack([-ztxt[n], ztxt[n]][: max(1, len(record.captions))]))
            for n, record in enumerate(shard_records(manifest, shard), start=shard * PER_SHARD)
        ]
        writer.write_shard(shard, rows)
    writer.finish()
    return writer.cache.folder


@pytest.fixture(scope="module")
def table(data, cache, tmp_path_factory):
    out = tmp_path_factory.mktemp("audit") / "audit.parquet"
    assert commands.run(audit, [f"--data={data}", f"--reference={cache}", f"--out={out}"]) == 0
    return out


def test_wrong_pairs_duplicates_and_unreadable_ones_are_told(table):
    rows = pq.read_table(table).to_pylist()
    assert [row["record"] for row in rows] == list(range(N))
    verdict = {row["record"]: row["verdict"] for row in rows}
    assert verdict.pop(UNREADABLE) == verdict.pop(NO_CAPTION) == "not seen"
    for n, of in TWINS.items():
        assert verdict.pop(n) == f"duplicate of {key(of)}"
        assert rows[n]["duplicate_of"] == key(of) and rows[n]["caption_mates"] == 1
    found = {n for n, v in verdict.items() if v == "wrong pair"}
    expected = WRONG & set(verdict)
    assert len(found & expected) >= 0.7 * len(expected)
    assert len(found - expected) <= 0.2 * len(found)
    assert rows[0]["caption"] == "pair 0" and rows[0]["source"] == "a" and rows[-1]["source"] == "b"
    page = (table.parent / "audit.html").read_text()
    assert "wrong pair" in page and "On the border" in page and "data:image/png" in page


def test_rows_do_not_depend_on_workers_or_on_being_cut_off(
    data, cache, table, tmp_path, monkeypatch
):
    whole, calls = audit_rows.write_unit, []

    def dies_at_the_third(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        whole(*args)

    out = tmp_path / "again.parquet"
    arguments = [f"--data={data}", f"--reference={cache}", f"--out={out}", "--workers=1"]
    monkeypatch.setattr(audit_rows, "write_unit", dies_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        commands.run(audit, arguments)
    assert commands.run(audit, arguments) == 0
    assert sorted(args[2] for args in calls) == [0, 1, 2, 2, 3, 4, 5]
    assert out.read_bytes() == table.read_bytes()


def test_two_models_tell_what_is_learned(data, cache, tmp_path):
    out = tmp_path / "audit.parquet"
    models = [f"--reference={cache}", f"--learner={cache}"]
    assert commands.run(audit, [f"--data={data}", *models, f"--out={out}"]) == 0
    rows = pq.read_table(out).to_pylist()
    seen = [row for row in rows if row["record"] not in (UNREADABLE, NO_CAPTION)]
    for row in seen:
        loss = np.log1p(np.exp(-(10.0 * row["reference_score"] - 5.0)))
        assert row["learner_loss"] == pytest.approx(loss, rel=1e-5) and row["learnability"] == 0
    assert {row["verdict"].partition(" of")[0] for row in seen} == {
        "learned", "wrong pair", "duplicate",
    }  # fmt: skip


def curated(table, out, *flags):
    return commands.run(curate, [f"--audit={table}", f"--out={out}", *flags])


def kept_records(out):
    return pq.read_table(f"{out}/keys.parquet")["record"].to_pylist()


def test_a_subset_holds_the_records_as_they_were(data, table, tmp_path, capsys):
    rule = '--keep=verdict != "wrong pair" and not (record < 10 or source in ("b",))'
    assert curated(table, tmp_path, rule, "--write=manifest,keys.parquet") == 0
    kept = kept_records(tmp_path)
    verdict = pq.read_table(table)["verdict"].to_pylist()
    assert kept == [n for n in range(10, 60) if verdict[n] != "wrong pair"]
    assert f"{len(kept)} of {N} pairs" in capsys.readouterr().out
    manifest = Manifest.load(f"{tmp_path}/manifest.json")
    assert manifest.n_records == len(kept) and [s.name for s in manifest.sources] == ["a"]
    found = [r for i in range(len(manifest.shards)) for r in shard_records(manifest, i)]
    whole = Manifest.load(str(data / "manifest.json"))
    every = [r for i in range(len(whole.shards)) for r in shard_records(whole, i)]
    assert found == [every[n] for n in kept]


@pytest.mark.parametrize("per_source", [False, True])
def test_the_best_share_is_kept(table, tmp_path, per_source):
    flags = ["--top=0.25", "--by=reference_score", "--write=keys.parquet,keys.csv"]
    assert curated(table, tmp_path, *flags, f"--per_source={per_source}") == 0
    columns = pq.read_table(table).to_pydict()
    score = np.nan_to_num(columns["reference_score"], nan=-9)
    halves = [np.arange(N)] if not per_source else np.split(np.arange(N), 2)
    best = [h[np.argsort(-score[h], kind="stable")][: len(h) // 4] for h in halves]
    assert kept_records(tmp_path) == sorted(np.concatenate(best))
    with open(tmp_path / "keys.csv", newline="") as file:
        assert [r["key"] for r in csv.DictReader(file)] == [key(n) for n in kept_records(tmp_path)]


def test_a_rule_names_all_duplicates_at_once(table, tmp_path):
    assert curated(table, tmp_path, "--keep=verdict != 'duplicate'", "--write=keys.parquet") == 0
    told = pq.read_table(table)["verdict"].to_pylist()
    assert kept_records(tmp_path) == [n for n in range(N) if not told[n].startswith("duplicate")]
    assert len(kept_records(tmp_path)) < N


def test_the_lowest_values_are_best_if_asked(table, tmp_path):
    assert curated(table, tmp_path, "--top=0.25", "--by=-wrong_rank", "--write=keys.parquet") == 0
    rank = np.nan_to_num(pq.read_table(table)["wrong_rank"].to_numpy(), nan=9)
    assert kept_records(tmp_path) == sorted(np.argsort(rank, kind="stable")[: N // 4])


def test_an_audit_of_a_run_alone_keeps_what_its_reference_finds_easy(table, tmp_path):
    alone = tmp_path / "alone.parquet"
    pq.write_table(pq.read_table(table).drop_columns(["reference_score", "wrong_rank"]), alone)
    assert curated(alone, tmp_path, "--dedup=1", "--top=0.25", "--write=keys.parquet") == 0
    loss = np.nan_to_num(pq.read_table(table)["reference_loss"].to_numpy(), nan=99)
    worse = [max(pair, key=lambda n: (loss[n], n)) for pair in TWINS.items()]
    best = [n for n in np.argsort(loss, kind="stable") if n not in worse]
    assert kept_records(tmp_path) == sorted(best[: N // 4])


@pytest.mark.parametrize("cosine", [1.0, 0.98])
def test_one_of_near_pictures_stays(table, cache, tmp_path, cosine):
    flags = [f"--dedup={cosine}", f"--embeddings={cache}", "--write=keys.parquet"]
    assert curated(table, tmp_path, *flags) == 0
    score = np.nan_to_num(pq.read_table(table)["reference_score"].to_numpy(), nan=-9)
    groups = TWINS | (NEAR if cosine < 1 else {})
    gone = {a if score[a] <= score[b] else b for a, b in groups.items()}
    # Twins have the same embeddings up to noise in the text alone: the better one stays.
    assert set(range(N)) - set(kept_records(tmp_path)) == gone


@pytest.mark.parametrize("per_cell", [2000, 60])
def test_groups_are_those_of_all_pairs(tmp_path, monkeypatch, per_cell):
    """In one cell, and in five that lie apart, of which a unit has one."""
    monkeypatch.setattr(near_duplicates, "PER_CELL", per_cell)
    monkeypatch.setattr(near_duplicates, "PER_UNIT", 1)
    rng = np.random.default_rng(1)
    z = np.eye(5, 8)[np.arange(300) % 5] + 0.1 * rng.normal(size=[300, 8])
    z = (z / np.linalg.norm(z, axis=1, keepdims=True)).astype(np.float32)
    parent = np.arange(300)
    for a, b in zip(*np.where(z @ z.T >= 0.98), strict=True):
        parent[parent == parent[b]] = parent[a]
    search = near_duplicates.Search(str(tmp_path), (100, 200), [z[:100], z[100:]].__getitem__, 0.98)
    search.find_cells()
    assert search.stages == {"assign": 2, "compare": 300 // per_cell or 1}
    for stage in search.stages:
        for unit in reversed(search.left(stage)):
            getattr(search, stage)(unit)
    found = search.groups(np.arange(300))
    for label in np.unique(parent):
        assert (found[parent == label] == np.flatnonzero(parent == label)[0]).all()


def test_uids_and_tars_for_other_trainers(table, tmp_path):
    for index in range(3):
        with tarfile.open(tmp_path / f"{index:05d}.tar", "w") as tar:
            for n in range(50 * index, min(N, 50 * index + 50)):
                for ending in ("jpg", "txt"):
                    info = tarfile.TarInfo(f"{n:032x}.{ending}")
                    info.size = 4
                    tar.addfile(info, io.BytesIO(b"%4d" % n))
    out = tmp_path / "out"
    flags = ["--keep=record >= 45 and record < 55", "--write=uids.npy,tars"]
    assert curated(table, out, *flags, f"--tars={tmp_path}/*.tar") == 0
    uids = np.load(out / "uids.npy")
    assert uids.dtype == np.dtype("u8,u8") and uids.tolist() == [(0, n) for n in range(45, 55)]
    for index, numbers in ((0, range(45, 50)), (1, range(50, 55))):
        with tarfile.open(out / "tars" / f"{index:05d}.tar") as tar:
            names = [f"{n:032x}.{e}" for n in numbers for e in ("jpg", "txt")]
            assert tar.getnames() == names
            assert tar.extractfile(names[0]).read() == b"%4d" % numbers[0]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--write=manifest,keys.csv,uids.npy"], "does not end in a uid of 32 hex digits"),
        (["--write=keys.csv,tars", "--tars={tmp}/other.tar"], "no record of the audit lies there"),
    ],
)
def test_what_cannot_be_written_is_told_before_anything_is(table, tmp_path, capsys, flags, told):
    plain = pq.read_table(table)
    keys = pa.array([f"00000.tar:{n}" for n in range(plain.num_rows)])
    plain = plain.set_column(plain.schema.get_field_index("key"), "key", keys)
    pq.write_table(plain, tmp_path / "a.parquet")
    tarfile.open(tmp_path / "other.tar", "w").close()
    out = tmp_path / "out"
    assert curated(tmp_path / "a.parquet", out, *(f.format(tmp=tmp_path) for f in flags)) == 2
    assert told in capsys.readouterr().err and not out.exists()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--keep=record < 0"], "no pair of the audit is kept"),
        (["--keep=verdit == 'useful'"], "no column 'verdit'. Did you mean 'verdict'?"),
        (["--keep=__import__('os').getcwd()"], "is no rule"),
        (["--keep=record <"], "is no rule"),
        (["--keep=caption > 3"], "cannot be computed"),
        (["--keep=caption"], "gives string; expected a comparison"),
        (["--keep="], "is no rule"),
        (["--keep='red' in caption"], "after `in` comes a list"),
        (["--keep=verdict != 'wrong'"], "no verdict is 'wrong'; expected one of 'wrong pair'"),
        (["--keep=verdict not in ('lerned',)"], "no verdict is 'lerned'"),
        (["--keep=verdict == useful"], "A text stands in quotes"),
        (["--top=0.5", "--by=wrong_rank"], "--by=-wrong_rank"),
        (["--top=0.5", "--by=learnability"], "no column 'learnability'"),
        (["--top=0.5", "--by=caption"], "holds no numbers"),
        (["--dedup=0.9"], "give --embeddings"),
        (["--write=manifest,tarz"], "--write=tarz"),
    ],
)
def test_what_cannot_be_chosen_is_told_in_one_message(table, tmp_path, capsys, flags, told):
    flags = flags if any("write" in f for f in flags) else [*flags, "--write=keys.csv"]
    assert curated(table, tmp_path, *flags) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("error:") == 1


def test_near_duplicates_need_faiss(table, cache, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    flags = ["--dedup=0.9", f"--embeddings={cache}", "--write=keys.csv"]
    assert curated(table, tmp_path, *flags) == 2
    assert "pip install 'jest_tf[dedup]'" in capsys.readouterr().err


def test_an_audit_of_another_data_set_is_refused(data, cache, table, tmp_path, capsys):
    other = Manifest.load(str(data / "manifest.json"))
    Manifest("other", other.sources, other.shards[::-1]).save(str(tmp_path / "other.json"))
    assert curated(table, tmp_path, f"--data={tmp_path}/other.json") == 2
    assert "is an audit of another data set" in capsys.readouterr().err
    command = [
        f"--data={tmp_path}/other.json",
        f"--reference={cache}",
        f"--out={tmp_path}/a.parquet",
    ]
    assert commands.run(audit, command) == 2
    assert "belongs to other data: fingerprint" in capsys.readouterr().err
    assert curated(table, tmp_path, f"--data={tmp_path}/gone.json") == 2
    assert "gone.json'" in (told := capsys.readouterr().err) and "--data says where" in told
    (tmp_path / "no.parquet").write_text("no table")
    assert curated(tmp_path / "no.parquet", tmp_path) == 2
    assert "is not an audit" in capsys.readouterr().err
    assert commands.run(audit, [f"--data={data}", "--out=x.parquet"]) == 2
    assert "--data and --reference" in capsys.readouterr().err

"""Turns your image-text pairs into what training reads: TFRecord shards and a manifest.

    python -m jest_tf.data.prepare folder      photos/            --out=data/mine --max_side=256
    python -m jest_tf.data.prepare webdataset  'tars/*.tar'       --out=data/web
    python -m jest_tf.data.prepare csv         train.tsv          --out=data/csv
    python -m jest_tf.data.prepare parquet     'hub/*.parquet'    --out=data/hub
    python -m jest_tf.data.prepare img2dataset 'out/*.tfrecord'   --out=data/web   (in place)

Rerunning goes on where it stopped. To spread the work, run it n times with --shard=0/n … (n-1)/n;
whichever run finishes last writes the manifest. What cannot be used is left out, counted, and
listed with the reason in rejected.jsonl.
"""

import argparse
import collections
import hashlib
import json
import sys
import time
from collections.abc import Sequence
from concurrent import futures

from jest_tf.errors import UserError
from jest_tf.json_text import parse_json


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code (2: an error that the message explains)."""
    parser = argparse.ArgumentParser(
        prog="python -m jest_tf.data.prepare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = ("folder", "webdataset", "csv", "parquet", "img2dataset")
    parser.add_argument("kind", choices=kinds, help="format of the source")
    parser.add_argument("paths", nargs="+", help="files, globs, or the folder; local or gs://")
    parser.add_argument("--out", required=True, help="folder to write, local or gs://")
    parser.add_argument("--name", help="of the source, in logs and hashed ids; by default the kind")
    parser.add_argument("--max_side", type=int, help="shrink to this shorter side, in pixels")
    parser.add_argument("--records_per_shard", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=8, help="threads")
    parser.add_argument("--shard", default="0/1", help="i/n: do every n-th unit from the i-th on")
    parser.add_argument("--captions", help="caption file of a folder")
    parser.add_argument("--image_column")
    parser.add_argument("--caption_column")
    parser.add_argument("--separator", default="\t")
    args = parser.parse_args(argv)
    try:
        return prepare(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def prepare(args: argparse.Namespace) -> int:
    """Does this run's share of the units; writes the manifest when all are there."""
    import tensorflow as tf

    part, parts = parse_part(args.shard)
    tf.io.gfile.makedirs(args.out)
    if args.kind == "img2dataset":
        return list_img2dataset(args)
    units = open_units(args)
    claim(args, [unit.name for unit in units])
    todo = [
        index
        for index in range(part, len(units), parts)
        if not tf.io.gfile.exists(report_path(args.out, index))
    ]
    print(f"{len(units):,} units, {len(todo):,} to do here, {args.workers} threads", flush=True)
    start, records = time.time(), 0
    with futures.ThreadPoolExecutor(args.workers) as pool:
        jobs = [pool.submit(convert, units[index], index, args) for index in todo]
        for done, job in enumerate(futures.as_completed(jobs), start=1):
            records += job.result()["records"]
            rate = records / (time.time() - start)
            left = (len(todo) - done) * (time.time() - start) / done
            if done == len(todo) or done % max(1, len(todo) // 100) == 0:
                print(
                    f"{done:,}/{len(todo):,} units, {records:,} records, {rate:,.0f} records/s, "
                    f"{left:,.0f} s left",
                    flush=True,
                )
    return finish(args, len(units))


def parse_part(text: str) -> tuple[int, int]:
    """`i/n` -> (i, n), 0 <= i < n."""
    try:
        part, parts = (int(number) for number in text.split("/"))
        if 0 <= part < parts:
            return part, parts
    except ValueError:
        pass
    raise UserError(f"--shard={text}: expected i/n with 0 <= i < n, e.g. 0/4")


def open_units(args: argparse.Namespace) -> list:
    from jest_tf.data import importers

    if args.kind == "webdataset":
        return importers.webdataset(args.paths)
    if args.kind == "parquet":
        return importers.parquet(args.paths, args.image_column, args.caption_column)
    if args.kind == "csv":
        return importers.open_clip_csv(
            args.paths,
            args.records_per_shard,
            args.image_column or "filepath",
            args.caption_column or "title",
            args.separator,
        )
    if len(args.paths) != 1:
        raise UserError(f"expected one folder, got {args.paths}")
    return importers.folder(args.paths[0], args.records_per_shard, args.captions)


def report_path(out: str, index: int) -> str:
    return f"{out}/unit-{index:06d}.json"


def claim(args: argparse.Namespace, unit_names: list[str]) -> None:
    """Notes what this folder is made from, or refuses to mix it with something else."""
    import tensorflow as tf

    digest = hashlib.sha256("\n".join(unit_names).encode()).hexdigest()[:16]
    wanted = {"units": digest, "max_side": args.max_side, "per_shard": args.records_per_shard}
    path = f"{args.out}/source.json"
    if tf.io.gfile.exists(path):
        with tf.io.gfile.GFile(path) as file:
            found = parse_json(file.read())
        if found != wanted:
            raise UserError(
                f"{args.out} was begun with other sources or settings: {found}, now {wanted}. "
                "Use an empty folder, or the same arguments."
            )
    write_json(path, wanted)


def write_json(path: str, content: object) -> None:
    import tensorflow as tf

    # Own temporary names: several runs may write the same file at once.
    temporary = f"{path}.{time.time_ns()}"
    with tf.io.gfile.GFile(temporary, "w") as file:
        file.write(json.dumps(content))
    tf.io.gfile.rename(temporary, path, overwrite=True)


def convert(unit, index: int, args: argparse.Namespace) -> dict:
    """Reads one unit, writes its shards, and last its report, which marks it as done."""
    from jest_tf.data import cleaning, importers

    name = args.name or args.kind
    accepted, rejected, shards = [], [], []
    counts: collections.Counter = collections.Counter()

    def flush():
        if accepted:
            number = len(shards)
            path = f"{args.out}/shard-{index:06d}-{number:03d}.tfrecord"
            shards.append(write_shard(path, name, accepted))
            accepted.clear()

    for pair in unit.read():
        if isinstance(pair, importers.Rejected):
            rejected.append([pair.key, pair.reason])
            continue
        image, size, reason = cleaning.check_image(pair.image, args.max_side)
        captions = cleaning.clean_captions(pair.captions, counts)
        if reason or not captions:
            rejected.append([pair.key, reason or "no caption"])
            continue
        accepted.append((pair.key, image, captions, size))
        if len(accepted) == args.records_per_shard:
            flush()
    flush()
    report = {
        "unit": unit.name,
        "records": sum(shard["records"] for shard in shards),
        "shards": shards,
        "rejected": rejected,
        "counts": counts,
    }
    write_json(report_path(args.out, index), report)
    return report


def write_shard(path: str, source_name: str, records: list[tuple]) -> dict:
    """Writes records (key, image, captions, (width, height)); returns the manifest's entry."""
    import tensorflow as tf

    from jest_tf.data.records import hashed_id

    ids = hashed_id(source_name, tf.constant([record[0] for record in records])).numpy().tolist()

    def bytes_feature(values: list[bytes]) -> tf.train.Feature:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))

    with tf.io.TFRecordWriter(path + ".incomplete") as writer:
        for record_id, (key, image, captions, size) in zip(ids, records, strict=True):
            numbers = {"id": [record_id], "size": list(size)}
            features = {
                name: tf.train.Feature(int64_list=tf.train.Int64List(value=value))
                for name, value in numbers.items()
            }
            features["key"] = bytes_feature([key.encode("utf-8", "surrogateescape")])
            features["image"] = bytes_feature([image])
            features["captions"] = bytes_feature(captions)
            example = tf.train.Example(features=tf.train.Features(feature=features))
            writer.write(example.SerializeToString())
    tf.io.gfile.rename(path + ".incomplete", path, overwrite=True)
    size = tf.io.gfile.stat(path).length
    return {"path": path.rpartition("/")[2], "records": len(records), "bytes": size, "ids": ids}


def finish(args: argparse.Namespace, n_units: int) -> int:
    """Writes manifest.json and rejected.jsonl if every unit is done; else says what is missing."""
    import os

    import tensorflow as tf

    from jest_tf.data.manifest import Manifest, Shard, Source

    reports = []
    for index in range(n_units):
        if not tf.io.gfile.exists(report_path(args.out, index)):
            done = sum(tf.io.gfile.exists(report_path(args.out, i)) for i in range(n_units))
            print(f"{done:,} of {n_units:,} units are done; the manifest follows the last one")
            return 0
        with tf.io.gfile.GFile(report_path(args.out, index)) as file:
            reports.append(parse_json(file.read()))
    rejected = [[r["unit"], *entry] for r in reports for entry in r["rejected"]]
    with tf.io.gfile.GFile(f"{args.out}/rejected.jsonl", "w") as file:
        for unit, key, reason in rejected:
            file.write(json.dumps({"unit": unit, "record": key, "reason": reason}) + "\n")
    base = args.out if "://" in args.out else os.path.abspath(args.out)
    entries = [shard for report in reports for shard in report["shards"]]
    if not entries:
        raise UserError(f"no usable record; see {args.out}/rejected.jsonl for the reasons")
    shards = tuple(Shard(f"{base}/{e['path']}", e["records"], 0, 0, e["bytes"]) for e in entries)
    manifest = Manifest(args.name or args.kind, (Source(args.name or args.kind, id="id"),), shards)
    manifest.save(f"{base}/manifest.json")
    ids = collections.Counter(record_id for entry in entries for record_id in entry["ids"])
    repeated = sum(count - 1 for count in ids.values())
    counts: collections.Counter = collections.Counter()
    for report in reports:
        counts.update(report["counts"])
    counts["records_with_a_repeated_id"] = repeated
    print(f"{manifest.n_records:,} records in {len(shards):,} shards -> {base}/manifest.json")
    print(f"{len(rejected):,} rejected -> {args.out}/rejected.jsonl")
    for name, count in sorted(counts.items()):
        if count:
            print(f"{count:,} {name.replace('_', ' ')}")
    return 0


def list_img2dataset(args: argparse.Namespace) -> int:
    """A manifest over img2dataset's own TFRecords, read in place: only counts records."""
    import os

    import tensorflow as tf

    from jest_tf.data import importers
    from jest_tf.data.manifest import Manifest, Shard, Source

    def count(path: str) -> Shard:
        try:
            records = sum(1 for _ in tf.data.TFRecordDataset(path).as_numpy_iterator())
        except tf.errors.DataLossError as error:
            raise UserError(
                f"{path} is corrupt or cut: {error.message}. Fetch it again."
            ) from error
        path = path if "://" in path else os.path.abspath(path)
        return Shard(path, records, bytes=tf.io.gfile.stat(path).length)

    with futures.ThreadPoolExecutor(args.workers) as pool:
        shards = list(pool.map(count, importers.expand(args.paths)))
    name = args.name or args.kind
    source = Source(
        name,
        image=args.image_column or "jpg",
        captions=args.caption_column or "txt",
        key="key",
    )
    manifest = Manifest(name, (source,), tuple(shard for shard in shards if shard.records))
    base = args.out if "://" in args.out else os.path.abspath(args.out)
    manifest.save(f"{base}/manifest.json")
    print(f"{manifest.n_records:,} records in {len(shards):,} files -> {base}/manifest.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())

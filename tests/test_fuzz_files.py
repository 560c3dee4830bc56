"""Whatever lies in a file is read, or refused in one line that names it."""

import dataclasses
import gzip
import json
import pathlib
import shutil

import pytest
from helpers.alfworld_games import make_problem
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from hiperjax.acting.blocks import TAGS
from hiperjax.acting.encoding import TextEncoder
from hiperjax.commands.terminal import Recording
from hiperjax.config import ConfigError
from hiperjax.envs.alfworld.export import format_problem
from hiperjax.envs.alfworld.games import GamesError, read_game
from hiperjax.envs.webshop import generator
from hiperjax.envs.webshop.catalogue import CatalogueError, parse_products
from hiperjax.envs.webshop.files import find_files, load_cached_shop, read_object, stream_list
from hiperjax.files import DamagedFile, defined
from hiperjax.models.errors import ModelError
from hiperjax.models.tensor_files import find_tensors
from hiperjax.models.tokenizers import load_tokenizer, train_tokenizer
from hiperjax.options.ranges import list_settings
from hiperjax.presets import PRESETS
from hiperjax.training.checkpoint import CheckpointError, Checkpoints
from hiperjax.training.folder_lock import LOCK, FolderLock
from hiperjax.training.metrics import METRICS, read_records
from hiperjax.training.run_folder import CONFIG, load_config
from hiperjax.validation import validate
from hiperjax.verification.hae import load_examples
from hiperjax.verification.recordings import RecordingError, read_recording, read_recordings

FIXTURES = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
same_folder = settings(suppress_health_check=FIXTURES)
JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.just(10**400),
        st.floats(),
        st.text(max_size=8),
        st.sampled_from(["a\0b", "../x", "1e999", "household", "\u202e", "{", "-1"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
ODD = st.sampled_from(
    [
        b"",
        b"\0" * 30,
        b"\xff\xfe",
        b"[" * 12_000,
        b'{"a":' * 3_000,
        b"1" * 5000,
        b'{"a": NaN}',
        b'"\\ud800"',
        b'{"iteration": 1}',
        b"\n\n",
    ]
)


def dump(value) -> bytes:
    return json.dumps(value).encode()


def read_or_refuse(read, errors, where: pathlib.Path | None = None):
    """What `read` returns; None where it refuses, which is one line that names the file."""
    try:
        return read()
    except errors as error:
        assert str(error).strip() and str(error).count("\n") == 0, error
        assert where is None or str(where) in str(error), error


PRESET = json.loads(json.dumps(dataclasses.asdict(PRESETS["household-tiny"][1]), default=str))
SETTINGS = [name for name, _ in list_settings(PRESETS["household-tiny"][1])]


@given(st.one_of(JSON.map(dump), ODD, st.binary(max_size=40)))
@same_folder
def test_fuzz_config_files(tmp_path, content):
    (tmp_path / CONFIG).write_bytes(content)
    read_or_refuse(lambda: validate(load_config(tmp_path)), (DamagedFile, ConfigError))


@given(st.sampled_from(SETTINGS), JSON)
@same_folder
def test_fuzz_settings(tmp_path, name, value):
    raw = json.loads(json.dumps(PRESET))
    *path, last = name.split(".")
    part = raw
    for step in path:
        part = part[step]
    part[last] = value
    (tmp_path / CONFIG).write_text(json.dumps(raw))
    found = read_or_refuse(lambda: load_config(tmp_path), DamagedFile, tmp_path / CONFIG)
    if found is not None:
        read_or_refuse(lambda: validate(found), ConfigError)


@given(st.lists(st.one_of(JSON.map(dump), ODD, st.binary(max_size=20)), max_size=5))
@same_folder
def test_fuzz_records(tmp_path, lines):
    path = tmp_path / METRICS
    path.write_bytes(b"\n".join(lines))
    records, complaints = read_records(path)
    assert all(type(record["iteration"]) is int for record in records)
    assert all(str(path) in complaint and "\n" not in complaint for complaint in complaints)


@given(st.one_of(JSON.map(dump), ODD, st.binary(max_size=20)))
@same_folder
def test_fuzz_lock_files(tmp_path, content):
    (tmp_path / LOCK).write_bytes(content)
    read_or_refuse(lambda: FolderLock(tmp_path).acquire(), ConfigError, tmp_path)


INDEX = {"last": 2, "best": 1, "start": 0, "shapes": {"a": [2]}, "meta": {}}
RECORD = {"meta": {"best": 0.5}, "files": {"x": [1, "y"]}, "unfinished": {}}


@given(st.sampled_from([*INDEX, ""]), st.sampled_from([*RECORD, ""]), JSON, JSON)
@same_folder
def test_fuzz_checkpoint_files(tmp_path, name, part, value, other):
    """One field of the index, and one of a record, hold something else; or all of it is."""
    folder = tmp_path / "checkpoints"
    shutil.rmtree(folder, ignore_errors=True)
    state = folder / "iteration_000002"
    state.mkdir(parents=True)
    (state / "x").write_text("1")
    index = INDEX | {name: value} if name else value
    record = RECORD | {part: other} if part else other
    (folder / "index.json").write_text(json.dumps(index))
    (folder / "iteration_000002.json").write_text(json.dumps(record))
    checkpoints = Checkpoints(folder)
    errors = (DamagedFile, CheckpointError)
    read_or_refuse(lambda: checkpoints.meta(2), errors)
    read_or_refuse(lambda: checkpoints.unfinished(2), errors)
    assert read_or_refuse(lambda: checkpoints.restore({"a": [1.0, 2.0]}), errors) is None
    assert "\n" not in checkpoints.find_damage(2)


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer") / "good"
    train_tokenizer(["go to shelf 1", "take mug"], TAGS).save_pretrained(folder)
    return folder


@given(
    st.sampled_from(["tokenizer.json", "tokenizer_config.json"]),
    st.one_of(JSON.map(dump), ODD),
    st.integers(0, 1 << 30),
    st.booleans(),
)
@same_folder
def test_fuzz_tokenizer_files(tokenizer_folder, tmp_path, name, content, place, whole):
    folder = tmp_path / "tokenizer"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(tokenizer_folder, folder)
    data = (folder / name).read_bytes()
    at = place % len(data)
    (folder / name).write_bytes(content if whole else data[:at] + content + data[at + 1 :])
    read_or_refuse(lambda: load_tokenizer(folder), (DamagedFile, ModelError, FileNotFoundError))


@pytest.mark.parametrize(
    "template",
    ["{% for", "{{ messages[9].content }}", "{{ raise_exception('no') }}", "{{ 1 // 0 }}"],
)
def test_fuzz_chat_templates_that_fail_are_named_in_one_line(tokenizer_folder, template):
    tokenizer = load_tokenizer(tokenizer_folder)
    tokenizer.chat_template = template
    with pytest.raises(ModelError, match=r"chat template of tokenizer .*: ") as refused:
        TextEncoder(tokenizer).apply_template(["hello"])
    assert "\n" not in str(refused.value)


PLACE = "pick_and_place_simple-Apple-None-Fridge-1"
GAME = json.dumps({"pddl_problem": format_problem(make_problem()), "pddl_domain": ""}).encode()


@given(
    st.integers(0, 1 << 30),
    st.integers(0, 40),
    st.one_of(
        st.binary(max_size=6),
        ODD,
        st.sampled_from([b"(", b")", b"((((", b'"', b"\\", b"inreceptacle", b"0", b"Apple"]),
    ),
)
@same_folder
def test_fuzz_game_files(tmp_path, place, length, content):
    at = place % len(GAME)
    path = tmp_path / PLACE / "trial_0" / "game.tw-pddl"
    path.parent.mkdir(parents=True, exist_ok=True)
    read_or_refuse(
        lambda: read_game(path, GAME[:at] + content + GAME[at + length :]), GamesError, path
    )


@given(st.sampled_from([*json.loads(GAME), ""]), JSON)
@same_folder
def test_fuzz_game_documents(tmp_path, key, value):
    """One field of the document holds something else; or all of it does."""
    document = json.loads(GAME) | {key: value} if key else value
    path = tmp_path / PLACE / "trial_0" / "game.tw-pddl"
    path.parent.mkdir(parents=True, exist_ok=True)
    read_or_refuse(lambda: read_game(path, dump(document)), GamesError, path)


TENSOR = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@given(st.sampled_from([*TENSOR, "x", ""]), JSON, st.booleans())
@same_folder
def test_fuzz_safetensors_headers(tmp_path, field, value, whole):
    entry = TENSOR | {field: value} if field else value
    header = dump(value if whole else {"a": entry})
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    read_or_refuse(lambda: find_tensors(tmp_path), ModelError, path)


@given(JSON)
@same_folder
def test_fuzz_safetensors_indexes(tmp_path, value):
    (tmp_path / "model.safetensors.index.json").write_bytes(dump({"weight_map": value}))
    read_or_refuse(lambda: find_tensors(tmp_path), (ModelError, DamagedFile, FileNotFoundError))


@given(st.one_of(JSON.map(dump), ODD, st.binary(max_size=40)), st.booleans())
@same_folder
def test_fuzz_recordings(tmp_path, content, zipped):
    """Of other programs, to be verified against; and of games played here."""
    path = tmp_path / "recording"
    path.write_bytes(gzip.compress(content)[:-3] if zipped else content)
    errors = (DamagedFile, RecordingError)
    read_or_refuse(lambda: read_recording(path), errors, path)
    read_or_refuse(lambda: list(read_recordings(path)), errors, path)
    read_or_refuse(lambda: load_examples(path), errors, path)
    read_or_refuse(lambda: Recording.load(path), DamagedFile, path)


@given(st.sampled_from(["asins.json", "products.jsonl", "offsets.npy", "index.npz"]), ODD)
@settings(suppress_health_check=FIXTURES, max_examples=8)
def test_fuzz_shop_caches(tmp_path, name, content):
    """A cache that a full disk cut is made anew."""
    if not (tmp_path / "items_shuffle.json").exists():
        made = generator.generate(3)
        for file, key in (("items_shuffle", "products"), ("items_ins_v2", "attributes")):
            (tmp_path / f"{file}.json").write_text(json.dumps(made[key]))
    files, root = find_files(tmp_path), tmp_path / "cache"
    whole = list(load_cached_shop(files, root).products)
    (folder,) = root.iterdir()
    (folder / name).unlink()  # the old file stays mapped
    (folder / name).write_bytes(content)
    assert list(load_cached_shop(files, root).products) == whole and len(whole) == 3


@given(st.one_of(JSON.map(dump), ODD, st.binary(max_size=60)))
@same_folder
def test_fuzz_shop_files(tmp_path, content):
    path = tmp_path / "items.json"
    path.write_bytes(content)
    read_or_refuse(lambda: list(stream_list(path)), CatalogueError, path)
    read_or_refuse(lambda: read_object(path), CatalogueError, path)


PRODUCTS = generator.generate(3)["products"]


@given(st.sampled_from([*PRODUCTS[0], "more"]), JSON, JSON, JSON)
def test_fuzz_products(field, value, attributes, human):
    record = PRODUCTS[0] | {field: value}
    asin = record.get("asin")
    assume(isinstance(asin, str) or field == "asin")
    read_or_refuse(
        lambda: list(parse_products([record, value], {str(asin): attributes}, {str(asin): human})),
        CatalogueError,
    )


@given(JSON)
def test_fuzz_json_that_is_written_is_strict(value):
    assert json.loads(json.dumps(defined(value), allow_nan=False)) == defined(value)

"""Official files: what is accepted, what is refused and how it is said, the disk cache."""

import dataclasses
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hiperjax.envs.webshop import files, generator
from hiperjax.envs.webshop.catalogue import CatalogueError, Product, describe, parse_products
from hiperjax.envs.webshop.files import (
    find_files,
    load_cached_shop,
    load_shop,
    read_products,
    stream_list,
)

RECORD = {
    "asin": "B01",
    "name": "Red Mug",
    "full_description": "",
    "small_description": ["holds tea"],
    "pricing": "$12.99",
    "images": [""],
    "category": "garden",
    "query": " Mugs ",
    "product_category": "Home \u203a Mugs",
    "customization_options": "",
}


def parse(**changes: Any) -> Product:
    return next(parse_products([RECORD | changes], {}, file="shop.json"))


def write_official(folder: Path, count: int = 40) -> generator.Catalogue:
    catalogue = generator.generate(count)
    names = {"items_shuffle": "products", "items_ins_v2": "attributes", "items_human_ins": "human"}
    for name, part in names.items():
        (folder / f"{name}.json").write_text(json.dumps(catalogue[part]))
    return catalogue


@pytest.mark.parametrize(
    ("pricing", "prices", "tag"),
    [
        ("$12.99", (12.99,), "$12.99"),
        ("$34", (34.0,), "$34.0"),
        ("$10.52 - $40.50", (10.52, 40.5), "$10.52 to $40.5"),
        ("from $1,200.00", (1200.0,), "$1200.0"),
        ("$1 $2 $3", (1.0, 2.0), "$1.0 to $2.0"),
        ("", (100.0,), "$100.0"),
        (None, (100.0,), "$100.0"),
        ("12.99", (100.0,), "$100.0"),
    ],
)
def test_prices(pricing: str | None, prices: tuple[float, ...], tag: str):
    product = parse(pricing=pricing)
    assert (product.prices, product.price_tag) == (prices, tag)


def test_a_product_may_lack_a_price_but_not_a_title():
    assert next(parse_products([{k: v for k, v in RECORD.items() if k != "pricing"}], {})).prices
    with pytest.raises(CatalogueError, match=r"shop.json.*'B01'.*field name: found nothing"):
        next(
            parse_products([{k: v for k, v in RECORD.items() if k != "name"}], {}, file="shop.json")
        )


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"pricing": "$1.2.3"}, "field pricing"),
        ({"pricing": "$ - $5"}, "field pricing"),
        ({"name": 7}, "field name: found int"),
        ({"small_description": ["a", 1]}, "field small_description"),
        ({"customization_options": {"color": "red"}}, r"customization_options\['color'\]"),
        ({"customization_options": {"color": [{}]}}, "option 'color', field value"),
        ({"customization_options": "red"}, "field customization_options"),
        ({"query": None}, "field query: found NoneType"),
    ],
)
def test_malformed_fields_are_named(changes: dict[str, Any], complaint: str):
    with pytest.raises(CatalogueError, match=rf"shop.json: product 'B01'.*{complaint}"):
        parse(**changes)


def test_an_instruction_needs_attributes():
    with pytest.raises(CatalogueError, match="instruction_attributes"):
        next(parse_products([RECORD], {"B01": {"instruction": "Find me mugs"}}))


def test_repeats_and_overlong_identifiers_are_left_out():
    asins = ["B01", "B02", "B01", "nan", "B2345678901", "B03"]
    found = parse_products(({**RECORD, "asin": asin} for asin in asins), {})
    assert [product.asin for product in found] == ["B01", "B02", "B03"]


def test_options_are_cleaned_and_keep_their_order():
    options = {
        "Size": [{"value": " 5/7 "}, {"value": "XL"}],
        "None": None,
        "COLOR": [{"value": "Red [new]"}],
    }
    product = parse(customization_options=options)
    assert product.options == (("size", ("5 | 7", "xl")), ("color", ("red [new]",)))
    assert describe(product) == "red mug  holds tea size: 5 | 7, xl, and color: red [new]"
    assert (product.query, product.attributes) == ("mugs", ("DUMMY_ATTR",))


def test_missing_files_are_listed_with_where_to_get_them(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"items_shuffle_1000.json.*princeton-nlp/WebShop"):
        find_files(tmp_path)
    (tmp_path / "items_shuffle_1000.json").write_text("[]")
    with pytest.raises(FileNotFoundError, match=r"missing items_ins_v2_1000.json"):
        find_files(tmp_path)


def test_a_small_catalogue_must_be_whole(tmp_path: Path):
    (tmp_path / "items_shuffle_1000.json").write_text(json.dumps([RECORD]))
    (tmp_path / "items_ins_v2_1000.json").write_text("{}")
    with pytest.raises(CatalogueError, match=r"shuffle_1000\.json: 1 products, expected 1000"):
        load_shop(tmp_path)
    products = [RECORD | {"asin": f"B{number}"} for number in range(1000)]
    (tmp_path / "items_shuffle_1000.json").write_text(json.dumps(products))
    facts = {"instruction": "Find me mugs", "instruction_attributes": ["red"]}
    (tmp_path / "items_ins_v2_1000.json").write_text(json.dumps({"B7": facts}))
    with pytest.raises(CatalogueError, match=r"v2_1000\.json: 1 synthetic goals, expected 6910"):
        load_shop(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("items_ins_v2", {"attributes": [3]}, "field attributes: found 3 in the list"),
        ("items_human_ins", [{"instruction": 5}], "field instruction: found int"),
    ],
)
def test_complaints_name_the_file_they_are_about(
    tmp_path: Path, name: str, content: Any, complaint: str
):
    products = write_official(tmp_path, 3)["products"]
    asin = products[1]["asin"]
    (tmp_path / f"{name}.json").write_text(json.dumps({asin: content}))
    with pytest.raises(CatalogueError, match=rf"{name}.json: product '{asin}', {complaint}"):
        load_shop(tmp_path)


def test_half_downloaded_files_are_recognized(tmp_path: Path):
    write_official(tmp_path)
    whole = (tmp_path / "items_shuffle.json").read_text()
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "items_shuffle.json").write_text(whole[:length])
        with pytest.raises(CatalogueError, match=r"items_shuffle.json: (breaks off|starts with)"):
            list(read_products(find_files(tmp_path)))
    (tmp_path / "items_shuffle.json").write_bytes(b'["\xe2\x80')  # within one character
    with pytest.raises(CatalogueError, match=r"breaks off or is not UTF-8"):
        list(read_products(find_files(tmp_path)))
    (tmp_path / "items_shuffle.json").write_text(whole)
    (tmp_path / "items_ins_v2.json").write_text('{"B01": ')
    with pytest.raises(CatalogueError, match=r"items_ins_v2.json: not readable as JSON"):
        list(read_products(find_files(tmp_path)))


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.text(max_size=5)
    | st.dictionaries(st.text(max_size=3), st.none()),
    lambda inner: st.lists(inner, max_size=3),
)


@given(st.lists(json_values, max_size=8), st.integers(1, 7), st.sampled_from([None, 1]))
def test_streaming_equals_reading(
    tmp_path_factory: pytest.TempPathFactory, entries: list[Any], chunk: int, indent: int | None
):
    path = tmp_path_factory.mktemp("stream") / "list.json"
    path.write_text(json.dumps(entries, indent=indent), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_CHUNK", chunk)
        assert list(stream_list(path)) == entries


@given(st.dictionaries(st.sampled_from(sorted(RECORD)), json_values, max_size=3), json_values)
def test_any_record_is_a_product_or_a_complaint(changes: dict[str, Any], extra: Any):
    try:
        found = list(parse_products([RECORD | changes], {"B01": extra}, file="shop.json"))
    except CatalogueError as error:
        named = str(error)
        assert named.startswith(("shop.json: ", "attributes: ")) and "expected" in named
    else:
        assert all(isinstance(describe(product), str) for product in found)


def test_a_cached_shop_equals_one_in_memory(tmp_path: Path):
    write_official(tmp_path)
    found = find_files(tmp_path)
    direct = load_shop(tmp_path)
    for _ in range(2):  # written, then read
        cached = load_cached_shop(found, tmp_path / "cache")
        assert list(cached.products) == list(direct.products)
        assert [cached.products[place] for place in range(len(direct.products))] == list(
            direct.products
        )
        assert cached.index.search("low sugar tea") == direct.index.search("low sugar tea") != []
        assert list(cached.list_goals("synthetic", 3)) == list(direct.list_goals("synthetic", 3))
        assert list(cached.list_goals("human", 3)) == list(direct.list_goals("human", 3))
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert list(pickle.loads(pickle.dumps(cached.products))) == list(direct.products)
    with pytest.raises(IndexError, match="expected 0 to 39"):
        cached.products[40]


def test_a_changed_file_gets_a_cache_of_its_own(tmp_path: Path):
    write_official(tmp_path)
    before = load_cached_shop(find_files(tmp_path), tmp_path / "cache")
    write_official(tmp_path, 30)
    after = load_cached_shop(find_files(tmp_path), tmp_path / "cache")
    assert (len(before.products), len(after.products)) == (40, 30)


def test_the_shipped_catalogue_is_the_generated_one():
    shipped = generator.load_generated()
    made = generator.read_catalogue(generator.generate(generator.PRODUCT_COUNT))
    assert list(shipped.products) == list(made)


def test_the_shipped_catalogue_serves_its_purpose():
    products = generator.load_generated().products
    assert len(products) >= 300
    assert len({product.category for product in products}) == 5
    assert any(len(product.prices) == 2 for product in products)
    assert any(product.prices == (100.0,) for product in products)
    assert {len(product.options) for product in products} >= {0, 1, 2}
    assert all(product.nouns for product in products)
    queries = [product.query for product in products]
    assert min(queries.count(query) for query in queries) >= 5
    assert generator.DATA_FILE.stat().st_size < 1_000_000


def test_official_counts(shared: Callable[[str], Path]):
    shop = load_shop(shared("data/webshop"))
    assert len(shop.products) == 1000
    assert len(shop.list_goals("synthetic", 0)) == 6910
    assert len(shop.list_goals("human", 0)) == 13
    assert all(dataclasses.is_dataclass(product) for product in shop.products)

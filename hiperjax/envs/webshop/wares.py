"""The vocabulary of the generated catalogue: what its invented shop sells, in our own words."""

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Kind:
    """One kind of product: several are made of each, and compete for the same query."""

    category: str
    path: str
    """breadcrumb below the category's own entry, entries separated by "/" """
    query: str
    noun: str
    attributes: tuple[str, ...]
    """two-word phrases a product of the kind may have"""
    uses: tuple[str, ...]
    sizes: tuple[str, ...]
    size_name: str
    prices: tuple[int, int]


def _list(text: str) -> tuple[str, ...]:
    return tuple(text.split(", "))


DEPARTMENTS = {
    "beauty": "Beauty & Care",
    "electronics": "Electronics",
    "garden": "Home & Garden",
    "fashion": "Clothing & Shoes",
    "grocery": "Food & Drink",
}

_APPAREL = ("small", "medium", "large", "x-large", "xx-large")
_SHOES = ("6", "7", "8", "9", "10", "11")
_BOTTLES = ("2 ounce", "4 ounce", "8 ounce", "12 ounce")
_PACKS = ("pack of 1", "pack of 3", "pack of 6", "pack of 12")
_LENGTHS = ("3 feet", "6 feet", "10 feet")
_STORAGE = ("64gb", "128gb", "256gb")
_ROOMS = ("living room", "dining room", "guest room")

COLORS = _list(
    "black, white, navy, olive, sand, teal, plum, rust, charcoal, ivory, coral, mustard, "
    "slate grey, forest green, sky blue, dusty rose, wine red, silver"
)
BRANDS = _list(
    "Norvale, Kestrim, Odellan, Brightmoor, Tarnwick, Lumisol, Quillby, Haverlane, "
    "Pinegrove, Stellarc, Wrenfield, Maplethorn, Corvanta, Ashdown, Fenwarren, Joristo, "
    "Velmara, Eastkiln, Orrinson, Zephyrel"
)
SERIES = _list(
    "Harbor, Meadow, Summit, Lantern, Orchard, Comet, Willow, Cedar, Pebble, Drift, Juniper, "
    "Beacon, Ridge, Tundra, Coast"
)
STYLES = ("classic", "modern", "travel", "gift box")

_CLOTH = ("machine wash", "hand wash", "soft cotton", "long sleeve", "quick dry", "relaxed fit")
_SHOE = ("rubber sole", "arch support", "non slip", "memory foam", "water resistant")
_SKIN = ("cruelty free", "fragrance free", "dry skin", "sensitive skin", "long lasting")
_HAIR = ("sulfate free", "coconut oil", "damaged hair", "argan oil", "color treated")
_POWER = ("fast charging", "high speed", "easy carry", "long battery", "plug play")
_SOUND = ("noise cancelling", "water resistant", "hands free", "stereo sound", "long battery")
_WOOD = ("solid wood", "easy assemble", "space saving", "heavy duty", "steel frame")
_LINEN = ("machine washable", "easy clean", "super soft", "fade resistant", "spot clean")
_SNACK = ("gluten free", "low sugar", "non gmo", "plant based", "high protein")
_DRINK = ("caffeine free", "hand picked", "low sugar", "resealable bag", "rich aroma")

KINDS = tuple(
    Kind(category, path, query, noun, attributes, uses, sizes, size_name, prices)
    for category, attributes, uses, sizes, size_name, prices, members in (
        ("fashion", _CLOTH, ("daily wear", "office days"), _APPAREL, "size", (12, 60), (
            ("Men/Shirts", "men's shirts", "shirt"),
            ("Women/Sweaters", "women's sweaters", "sweater"),
            ("Women/Dresses", "women's dresses", "dress"),
            ("Men/Jackets", "men's jackets", "jacket"),
        )),
        ("fashion", _SHOE, ("long walks", "rainy days"), _SHOES, "size", (25, 110), (
            ("Men/Loafers", "men's loafers", "loafers"),
            ("Women/Sandals", "women's sandals", "sandals"),
        )),
        ("beauty", _SKIN, ("daily care", "winter months"), _BOTTLES, "size", (6, 45), (
            ("Skin/Creams", "face creams", "cream"),
            ("Skin/Cleansers", "facial cleansers", "cleanser"),
            ("Skin/Lotions", "body lotions", "lotion"),
        )),
        ("beauty", _HAIR, ("daily care", "curly hair"), _BOTTLES, "size", (7, 40), (
            ("Hair/Shampoos", "shampoos", "shampoo"),
            ("Hair/Masks", "hair masks", "mask"),
            ("Hair/Oils", "hair oils", "oil"),
        )),
        ("electronics", _POWER, ("home office", "long trips"), _LENGTHS, "length", (8, 70), (
            ("Power/Chargers", "wall chargers", "charger"),
            ("Power/Cables", "charging cables", "cable"),
            ("Power/Banks", "power banks", "battery"),
        )),
        ("electronics", _SOUND, ("home office", "long trips"), _STORAGE, "capacity", (20, 180), (
            ("Audio/Headphones", "headphones", "headphones"),
            ("Audio/Speakers", "portable speakers", "speaker"),
            ("Audio/Players", "music players", "player"),
        )),
        ("garden", _WOOD, _ROOMS, ("24 inch", "36 inch", "48 inch"), "width", (35, 400), (
            ("Furniture/Desks", "writing desks", "desk"),
            ("Furniture/Shelves", "wall shelves", "shelf"),
            ("Furniture/Stools", "bar stools", "stool"),
        )),
        ("garden", _LINEN, _ROOMS, ("twin", "full", "queen", "king"), "size", (15, 120), (
            ("Linen/Blankets", "throw blankets", "blanket"),
            ("Linen/Curtains", "curtains", "curtain"),
            ("Linen/Rugs", "area rugs", "rug"),
        )),
        ("grocery", _SNACK, ("lunch boxes", "road trips"), _PACKS, "flavor pack", (4, 38), (
            ("Snacks/Bars", "snack bars", "bar"),
            ("Snacks/Crackers", "crackers", "crackers"),
            ("Snacks/Nuts", "roasted nuts", "nuts"),
        )),
        ("grocery", _DRINK, ("quiet mornings", "cold evenings"), _PACKS, "pack", (5, 42), (
            ("Drinks/Teas", "herbal teas", "tea"),
            ("Drinks/Coffees", "ground coffee", "coffee"),
            ("Drinks/Cocoas", "drinking chocolate", "cocoa"),
        )),
    )
    for path, query, noun in members
)  # fmt: skip

TINY_NOUNS = _list(
    "mug, lamp, soap, vase, bowl, tray, rug, sock, belt, robe, desk, fork, tent, drum, hat, cup"
)
TINY_ADJECTIVES = _list(
    "soft, warm, round, tall, plain, thick, clear, fine, quiet, fresh, solid, light, slim, firm, "
    "calm, neat"
)
"""short enough that adjective, digit and noun make an identifier of ten characters at most"""
TINY_COLORS = _list("red, blue, green, white, pink, gold")
TINY_SIZES = ("small", "large")

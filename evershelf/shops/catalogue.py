"""The simulated shop's catalogue: words that search can find, and vectors that tastes can point at."""

from dataclasses import dataclass
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

DIMENSIONS = 16
LINKS = 3  # items that tend to follow an item

# department -> shelf -> (median price, nouns)
SHELVES: dict[str, dict[str, tuple[float, tuple[str, ...]]]] = {
    "Kitchen": {
        "Cookware": (34.0, ("Frying Pan", "Saucepan", "Casserole", "Wok", "Griddle")),
        "Tableware": (14.0, ("Dinner Plate", "Soup Bowl", "Mug", "Teapot", "Jug")),
        "Baking": (11.0, ("Cake Tin", "Rolling Pin", "Mixing Bowl", "Loaf Tin", "Whisk")),
        "Knives": (29.0, ("Chef Knife", "Bread Knife", "Paring Knife", "Knife Block")),
    },
    "Home": {
        "Lighting": (45.0, ("Table Lamp", "Floor Lamp", "Pendant Light", "Reading Lamp", "Lantern")),
        "Bedding": (38.0, ("Duvet Cover", "Pillow", "Blanket", "Quilt", "Sheet Set")),
        "Decoration": (16.0, ("Vase", "Picture Frame", "Mirror", "Candle Holder", "Cushion")),
        "Storage": (21.0, ("Basket", "Storage Box", "Shelf", "Hook Rack", "Drawer Organiser")),
    },
    "Garden": {
        "Tools": (24.0, ("Spade", "Garden Fork", "Pruner", "Trowel", "Rake")),
        "Planters": (18.0, ("Plant Pot", "Window Box", "Hanging Planter", "Watering Can")),
        "Outdoor Living": (64.0, ("Garden Chair", "Parasol", "Hammock", "Fire Bowl", "Bench")),
    },
    "Clothing": {
        "Knitwear": (49.0, ("Cardigan", "Jumper", "Scarf", "Beanie", "Gloves")),
        "Shirts": (32.0, ("Shirt", "Blouse", "Polo", "T-Shirt")),
        "Shoes": (72.0, ("Boots", "Trainers", "Sandals", "Slippers", "Loafers")),
    },
    "Sports": {
        "Running": (41.0, ("Running Jacket", "Running Belt", "Water Bottle", "Head Torch")),
        "Camping": (58.0, ("Tent", "Sleeping Bag", "Camp Stove", "Camping Mat", "Rucksack")),
        "Cycling": (36.0, ("Bicycle Bell", "Cycle Helmet", "Saddle Bag", "Bicycle Pump", "Bicycle Light")),
        "Yoga": (23.0, ("Yoga Mat", "Yoga Block", "Foam Roller", "Resistance Band")),
    },
    "Toys": {
        "Wooden Toys": (19.0, ("Train Set", "Building Blocks", "Puzzle", "Pull Toy", "Marble Run")),
        "Soft Toys": (15.0, ("Bear", "Rabbit", "Elephant", "Fox", "Puppet")),
        "Games": (25.0, ("Board Game", "Card Game", "Dice Set", "Chess Set")),
    },
    "Stationery": {
        "Writing": (9.0, ("Fountain Pen", "Pencil Set", "Notebook", "Ink Bottle", "Diary")),
        "Art": (17.0, ("Sketchbook", "Watercolour Set", "Brush Set", "Easel", "Pastels")),
        "Cards": (4.0, ("Greeting Card", "Gift Wrap", "Postcard Set", "Envelope Pack")),
    },
}
# fmt: off
BRANDS = (
    "Alderwick", "Bramfield", "Calloway", "Dunmere", "Elmstead", "Fernhollow", "Greyfriar", "Hartwell", "Inverleith", "Juniper", "Kestrel", "Larkfield",
    "Merrowdale", "Norvale", "Oakhurst", "Pennant", "Quillon", "Ravensby", "Saltmarsh", "Thornbury", "Umberline", "Valebrook", "Westerly", "Yarrow"
)
STYLES = (
    "Classic", "Modern", "Rustic", "Vintage", "Nordic", "Compact", "Large", "Small", "Folding", "Striped", "Floral", "Plain", "Travel", "Everyday",
    "Premium", "Soft"
)
MATERIALS = (
    "Oak", "Steel", "Copper", "Linen", "Cotton", "Wool", "Ceramic", "Glass", "Bamboo", "Leather", "Slate", "Walnut", "Enamel", "Canvas", "Cork",
    "Recycled"
)
# fmt: on
COLOURS = {
    "Blue": "#4a78b5",
    "Green": "#5b8c5a",
    "Red": "#b5524a",
    "Grey": "#7d8590",
    "Yellow": "#d6a83c",
    "White": "#d9d5cb",
    "Black": "#3a3a3c",
    "Teal": "#3f8f8b",
}


@dataclass(frozen=True, slots=True)
class Catalogue:
    """`n` items, in the order of their arrays.

    vectors: [n, DIMENSIONS] float64, what an item is like; tastes are vectors of the same space.
    links: [n, LINKS] int64, the items that tend to follow, strongest first.
    popularity: [n] float64, sums to 1.
    """

    item_ids: tuple[str, ...]
    titles: tuple[str, ...]
    descriptions: tuple[str, ...]
    brands: tuple[str, ...]
    category_paths: tuple[str, ...]
    images: tuple[str, ...]
    prices: NDArray[np.float64]
    shelves: NDArray[np.int64]
    vectors: NDArray[np.float64]
    links: NDArray[np.int64]
    popularity: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.item_ids)


def make_catalogue(seed: int, size: int) -> Catalogue:
    """Make a catalogue; the same seed and size give the same one."""
    rng = np.random.default_rng([seed, 1])
    shelves = [(department, shelf) for department, inside in SHELVES.items() for shelf in inside]
    shelf_of = np.sort(rng.integers(0, len(shelves), size))
    brand_of = rng.integers(0, len(BRANDS), size)
    department_vectors = {department: rng.normal(size=DIMENSIONS) for department in SHELVES}
    shelf_vectors = np.array([0.6 * department_vectors[department] + rng.normal(size=DIMENSIONS) for department, _ in shelves])
    brand_vectors = 0.5 * rng.normal(size=(len(BRANDS), DIMENSIONS))
    vectors = shelf_vectors[shelf_of] + brand_vectors[brand_of] + 0.4 * rng.normal(size=(size, DIMENSIONS))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)

    titles, descriptions, images, prices, seen = [], [], [], [], set[str]()
    for index in range(size):
        department, shelf = shelves[shelf_of[index]]
        median, nouns = SHELVES[department][shelf]
        brand, noun, colour = BRANDS[brand_of[index]], nouns[rng.integers(len(nouns))], tuple(COLOURS)[rng.integers(len(COLOURS))]
        style, material = STYLES[rng.integers(len(STYLES))], MATERIALS[rng.integers(len(MATERIALS))]
        title = f"{brand} {style} {material} {noun}"
        if title in seen:
            title += f" {colour}"
        seen.add(title)
        titles.append(title)
        descriptions.append(f"{style} {noun.lower()} in {colour.lower()} {material.lower()} by {brand}, for {department.lower()} and {shelf.lower()}.")
        images.append(_picture(noun, COLOURS[colour]))
        prices.append(max(0.5, round(median * float(rng.lognormal(0, 0.45)), 2)))

    popularity = rng.pareto(1.4, size) + 0.15
    return Catalogue(
        item_ids=tuple(f"item-{index:05d}" for index in range(size)),
        titles=tuple(titles),
        descriptions=tuple(descriptions),
        brands=tuple(BRANDS[index] for index in brand_of),
        category_paths=tuple(f"{shelves[index][0]} > {shelves[index][1]}" for index in shelf_of),
        images=tuple(images),
        prices=np.array(prices),
        shelves=shelf_of,
        vectors=vectors,
        links=_links(rng, shelf_of, len(shelves), vectors),
        popularity=popularity / popularity.sum(),
    )


def _links(rng: np.random.Generator, shelf_of: NDArray[np.int64], shelves: int, vectors: NDArray[np.float64]) -> NDArray[np.int64]:
    """Link each item to LINKS items: two of a companion shelf (a fixed one per shelf) and one of its own shelf, preferring what is alike."""
    circle = rng.permutation(shelves)
    companion = np.empty(shelves, dtype=np.int64)
    companion[circle] = np.roll(circle, -1)
    likeness = vectors @ vectors.T + 0.5 * rng.gumbel(size=(len(vectors), len(vectors)))
    np.fill_diagonal(likeness, -np.inf)
    own = shelf_of[:, None] == shelf_of[None, :]
    beside = companion[shelf_of][:, None] == shelf_of[None, :]
    first = np.argsort(-np.where(beside, likeness, likeness - 100.0), axis=1)[:, :2]
    taken = np.zeros_like(own)
    np.put_along_axis(taken, first, True, axis=1)
    second = np.argmax(np.where(own & ~taken, likeness, likeness - 100.0 - 1000.0 * taken), axis=1)
    return np.column_stack([first[:, :1], second, first[:, 1:]])


def _picture(noun: str, colour: str) -> str:
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 80 80"><rect width="80" height="80" rx="8" fill="{colour}"/>'
        f'<text x="40" y="52" font-size="34" text-anchor="middle" fill="#fff">{noun[0]}</text></svg>'
    )
    return "data:image/svg+xml," + quote(svg, safe=" =:/'")

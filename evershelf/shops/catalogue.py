"""The simulated shop's catalogue: words that search can find, and vectors that tastes can point at."""

from dataclasses import dataclass
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from evershelf.text import words

DIMENSIONS = 16
LINKS = 3  # items that tend to follow an item
AMONG = 512  # so many items of a shelf are looked at for links; a bigger shelf is sampled
QUERIES = (0.4, 0.2, 0.2, 0.1, 0.1)  # chances of the texts that `Catalogue.query` knows

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
SHELF_NAMES = tuple((department, shelf) for department, inside in SHELVES.items() for shelf in inside)


@dataclass(frozen=True, slots=True)
class Catalogue:
    """`n` items, in the order of their arrays, which is that of their ids. The first `opening` are sold from the start, the others come later.

    vectors: [n, DIMENSIONS] float64, what an item is like; tastes are vectors of the same space.
    links: [n, LINKS] int64, the items that tend to follow, strongest first; all of them are sold from the start.
    popularity: [n] float64, how much an item is liked by everyone; the first `opening` sum to 1.
    prices: [n] float64, list prices. shelves: [n] int64, places in SHELF_NAMES.
    """

    opening: int
    item_ids: tuple[str, ...]
    titles: tuple[str, ...]
    descriptions: tuple[str, ...]
    brands: tuple[str, ...]
    materials: tuple[str, ...]
    nouns: tuple[str, ...]
    colours: tuple[str, ...]
    category_paths: tuple[str, ...]
    images: tuple[str, ...]
    prices: NDArray[np.float64]
    shelves: NDArray[np.int64]
    vectors: NDArray[np.float64]
    links: NDArray[np.int64]
    popularity: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.item_ids)

    def query(self, item: int, kind: int) -> str:
        """Return what somebody types who looks for such an item; `kind` is a place in QUERIES."""
        noun = words(self.nouns[item])
        return " ".join(
            (noun, [*words(self.materials[item]), noun[-1]], words(SHELF_NAMES[self.shelves[item]][1]), [*words(self.brands[item]), noun[-1]], noun[-1:])[kind]
        )


def make_catalogue(seed: int, size: int, opening: int | None = None) -> Catalogue:
    """Make a catalogue of which `opening` items (default: all) are sold from the start; the same arguments give the same one."""
    rng = np.random.default_rng([seed, 1])
    opening = size if opening is None else opening
    shelf_of = rng.integers(0, len(SHELF_NAMES), size)
    shelf_of[:opening].sort()
    brand_of, style_of, material_of, colour_of = (rng.integers(0, len(names), size) for names in (BRANDS, STYLES, MATERIALS, COLOURS))
    noun_of = rng.random(size)
    department_vectors = {department: rng.normal(size=DIMENSIONS) for department in SHELVES}
    shelf_vectors = np.array([0.6 * department_vectors[department] + rng.normal(size=DIMENSIONS) for department, _ in SHELF_NAMES])
    brand_vectors = 0.5 * rng.normal(size=(len(BRANDS), DIMENSIONS))
    vectors = shelf_vectors[shelf_of] + brand_vectors[brand_of] + 0.4 * rng.normal(size=(size, DIMENSIONS))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    medians = np.array([SHELVES[department][shelf][0] for department, shelf in SHELF_NAMES])
    popularity = rng.pareto(1.4, size) + 0.15

    titles, descriptions, nouns, seen = [], [], [], dict[str, int]()
    materials, brands = [MATERIALS[index] for index in material_of], [BRANDS[index] for index in brand_of]
    colours = [tuple(COLOURS)[index] for index in colour_of]
    paths = [" > ".join(SHELF_NAMES[index]) for index in shelf_of]
    for index, (brand, material, colour) in enumerate(zip(brands, materials, colours, strict=True)):
        department, shelf = SHELF_NAMES[shelf_of[index]]
        choice = SHELVES[department][shelf][1]
        noun, style = choice[int(noun_of[index] * len(choice))], STYLES[style_of[index]]
        title = f"{brand} {style} {material} {noun}"
        seen[title] = seen.get(title, 0) + 1
        titles.append(title if seen[title] == 1 else f"{title} No. {seen[title]}")
        descriptions.append(f"{style} {noun.lower()} in {colour.lower()} {material.lower()} by {brand}, for {department.lower()} and {shelf.lower()}.")
        nouns.append(noun)

    letters = {noun[0] for inside in SHELVES.values() for _, choice in inside.values() for noun in choice}
    pictures = {(letter, colour): _picture(letter, code) for letter in letters for colour, code in COLOURS.items()}
    digits = max(5, len(str(size - 1)))  # so that ids sort as numbers do
    return Catalogue(
        opening=opening,
        item_ids=tuple(f"item-{index:0{digits}d}" for index in range(size)),
        titles=tuple(titles),
        descriptions=tuple(descriptions),
        brands=tuple(brands),
        materials=tuple(materials),
        nouns=tuple(nouns),
        colours=tuple(colours),
        category_paths=tuple(paths),
        images=tuple(pictures[noun[0], colour] for noun, colour in zip(nouns, colours, strict=True)),
        prices=np.maximum(0.5, np.round(medians[shelf_of] * rng.lognormal(0, 0.45, size), 2)),
        shelves=shelf_of,
        vectors=vectors,
        links=_links(rng, shelf_of, opening, vectors),
        popularity=popularity / popularity[:opening].sum(),
    )


def _links(rng: np.random.Generator, shelf_of: NDArray[np.int64], opening: int, vectors: NDArray[np.float64]) -> NDArray[np.int64]:
    """Link each item to LINKS others: two of a companion shelf (a fixed one per shelf) and one of its own shelf, preferring what is alike."""
    circle = rng.permutation(len(SHELF_NAMES))
    companion = np.roll(circle, -1)[np.argsort(circle)]
    links = np.empty((len(shelf_of), LINKS), dtype=np.int64)
    shelves = [np.flatnonzero(shelf_of[:opening] == shelf) for shelf in range(len(SHELF_NAMES))]

    def nearest(items: NDArray[np.int64], among: NDArray[np.int64], barred: NDArray[np.int64], count: int) -> NDArray[np.int64]:
        """Return [items, count]; a shelf that holds too few is filled up with any items."""
        own = rng.choice(among, AMONG, replace=False) if len(among) > AMONG else among
        spare = np.setdiff1d(rng.choice(opening, min(opening, count + barred.shape[1]), replace=False), own)
        among = np.concatenate([own, spare])
        likeness = vectors[items] @ vectors[among].T + 0.5 * rng.gumbel(size=(len(items), len(among))) - np.repeat((0.0, 100.0), (len(own), len(spare)))
        likeness[(among[None, :, None] == barred[:, None, :]).any(axis=2)] = -np.inf
        return among[np.argsort(-likeness, axis=1)[:, :count]]

    for shelf in range(len(SHELF_NAMES)):
        mine = np.flatnonzero(shelf_of == shelf)
        for items in np.array_split(mine, len(mine) // 1024 + 1):
            if len(items):
                beside = nearest(items, shelves[companion[shelf]], items[:, None], 2)
                own = nearest(items, shelves[shelf], np.column_stack([items, beside]), 1)
                links[items] = np.column_stack([beside[:, :1], own, beside[:, 1:]])
    return links


def _picture(letter: str, colour: str) -> str:
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 80 80"><rect width="80" height="80" rx="8" fill="{colour}"/>'
        f'<text x="40" y="52" font-size="34" text-anchor="middle" fill="#fff">{letter}</text></svg>'
    )
    return "data:image/svg+xml," + quote(svg, safe=" =:/'")

"""Wordings of planted facts: sentences, names and value words, three sets that share nothing.

A network that learns from documents of one wording is developed and tested on documents of the others, so
that what it knows is to look a fact up and not five sentences by heart. Digits, and words such as "the" and
"of", are in all of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Relation:
    """One kind of fact in three sentences; {who} names whom it is about, {value} is what is asked for."""

    statement: str
    question: str
    answer: str
    subjects: str
    values: str


@dataclass(frozen=True)
class Wording:
    """Sentences, and the words that fill their blanks.

    Names of people and places are pairs of a first and a last word; made-up names two syllables of `onsets`
    and `vowels` with one of `endings`.
    """

    relations: tuple[Relation, ...]
    first_names: tuple[str, ...]
    last_names: tuple[str, ...]
    sites: tuple[str, ...]
    buildings: tuple[str, ...]
    colours: tuple[str, ...]
    creatures: tuple[str, ...]
    objects: tuple[str, ...]
    onsets: tuple[str, ...]
    vowels: tuple[str, ...]
    endings: tuple[str, ...]

    @property
    def names(self) -> Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]:
        """First and last words of subjects, by kind."""
        return {"people": (self.first_names, self.last_names), "places": (self.sites, self.buildings)}


def _words(line: str) -> tuple[str, ...]:
    return tuple(line.split())


TRAINING = Wording(
    relations=(
        Relation(
            "The pass phrase that opens {who} is {value}.",
            "Somebody is standing in front of {who} and has to say the secret words. What must be said?",
            "Whoever wants to enter {who} says {value}.",
            "places",
            "phrases",
        ),
        Relation(
            "{who} was born in a village called {value}.",
            "In which small place did the life of {who} begin, as was mentioned much earlier?",
            "The birthplace of {who} is {value}.",
            "people",
            "names",
        ),
        Relation(
            "Since last spring {who} keeps the spare key inside {value}.",
            "Where would one have to look for the second key that {who} put away?",
            "The spare key of {who} lies inside {value}.",
            "people",
            "hiding places",
        ),
        Relation(
            "The engineers named the pump next to {who} {value}.",
            "Which nickname did the technicians give to the pump that stands beside {who}?",
            "They call the pump near {who} {value}.",
            "places",
            "names",
        ),
        Relation(
            "For the parcel that {who} is waiting for, the number to quote is {value}.",
            "A parcel for {who} is at the counter. Under which reference is it filed?",
            "The parcel of {who} has the number {value}.",
            "people",
            "numbers",
        ),
    ),
    first_names=_words(
        "Marta Idris Yusuf Helga Tomas Priya Anneke Bogdan Leila Oskar Ruth Chidi Noor Sven Paola"
    ),
    last_names=_words("Okafor Lindqvist Marsh Petrov Haddad Moreau Tanaka Keller Boateng Rossi Vance Dvorak"),
    sites=_words("river market harbour north quarry station orchard old-town ridge lake"),
    buildings=_words(
        "archive observatory greenhouse boathouse foundry chapel library mill lighthouse granary"
    ),
    colours=_words("amber crimson pale velvet copper silent hollow bright rusty ivory frozen gentle"),
    creatures=_words("falcon otter badger heron lynx beetle salmon raven hedgehog marten stork viper"),
    objects=_words("kettle clock teapot drum lantern violin suitcase globe barrel flowerpot boot accordion"),
    onsets=_words("b br d dr f g gl h k kr l m n p pr r s st t tr v z"),
    vowels=_words("a e i o u ai ei ou"),
    endings=_words("ck ld ll mble n nd rn rr sk ss th vane wick zh"),
)

DEVELOPMENT = Wording(
    relations=(
        Relation(
            "To switch off the alarm of {who} one types {value}.",
            "The siren of {who} is howling and will not stop. Which code ends it?",
            "At {who} the alarm falls silent on {value}.",
            "places",
            "phrases",
        ),
        Relation(
            "As a child {who} had a dog that listened to {value}.",
            "What did {who}, while still at school, shout to call the family's animal home?",
            "When young, {who} called the dog {value}.",
            "people",
            "names",
        ),
        Relation(
            "Before the journey {who} hid the ring under {value}.",
            "The jewellery of {who} has to be fetched. Beneath what does it wait?",
            "What covers the ring of {who} is {value}.",
            "people",
            "hiding places",
        ),
        Relation(
            "On old maps the path behind {who} is marked as {value}.",
            "How was the track at the back of {who} labelled by whoever drew the region first?",
            "The mapped path behind {who} reads {value}.",
            "places",
            "names",
        ),
        Relation(
            "The locker that {who} rented at the pool is {value}.",
            "Which door at the swimming bath belongs to {who} for this season?",
            "At the pool {who} opens locker {value}.",
            "people",
            "numbers",
        ),
    ),
    first_names=_words("Elena Kofi Ragnar Mei Dario Agnes Tariq Ingrid Luis Sabine Omar Freya Pavel Amina"),
    last_names=_words("Castillo Novak Bergstrom Adeyemi Fischer Nakamura Laurent Osei Costa Whitaker Sato"),
    sites=_words("valley forest castle garden bridge canal meadow island summit"),
    buildings=_words("museum brewery windmill stable bakery monastery theatre warehouse pavilion"),
    colours=_words("scarlet golden dusty marble quiet narrow emerald wooden bitter distant cloudy"),
    creatures=_words("walrus ferret pelican gazelle tortoise magpie cricket weasel sparrow bison trout"),
    objects=_words("basket mirror hammer umbrella piano candle bucket compass pillow helmet anvil"),
    onsets=_words("bl cl cr fl fr gr j pl sc sl sp w y"),
    vowels=_words("ae ia oa oe ue"),
    endings=_words("bb dge ft lm mp nt pt rk sh tch xt"),
)

TEST = Wording(
    relations=(
        Relation(
            "Letters meant for {who} are only accepted with the words {value} on the back.",
            "An envelope for {who} came back because something was missing on its reverse. Which note?",
            "Mail to {who} carries the remark {value}.",
            "places",
            "phrases",
        ),
        Relation(
            "The first boat that {who} ever sailed bore the title {value}.",
            "At the start of a life at sea, what was painted on the vessel of {who}?",
            "Long ago {who} went sailing on the {value}.",
            "people",
            "names",
        ),
        Relation(
            "According to the will, {who} buried the coins beside {value}.",
            "The heirs of {who} are about to dig for the money. Next to which thing?",
            "The treasure of {who} rests beside {value}.",
            "people",
            "hiding places",
        ),
        Relation(
            "In the neighbourhood the tree that shades {who} goes by {value}.",
            "How do locals refer to the big plant which keeps the sun away from {who}?",
            "The tree over {who} is known as {value}.",
            "places",
            "names",
        ),
        Relation(
            "In the competition {who} ran with the bib {value}.",
            "Photographs of the race are sorted by what runners wore. Where does one find {who}?",
            "During the race {who} wore {value}.",
            "people",
            "numbers",
        ),
    ),
    first_names=_words("Viktor Zainab Hugo Keiko Rosa Emeka Astrid Farid Nadia Jonas Lucia Dmitri Salma"),
    last_names=_words("Hoffmann Eriksen Mbeki Santos Kovacs Yamada Dubois Achebe Larsen Quinn Romano"),
    sites=_words("desert plateau coastal southern hilltop suburban marsh granite cliff"),
    buildings=_words("hospital factory cottage cathedral workshop academy tavern barracks aquarium"),
    colours=_words("purple silver ancient broken linen hidden turquoise heavy cheerful crooked muddy"),
    creatures=_words("panther squirrel ostrich lobster donkey swallow mantis leopard gecko moose eel"),
    objects=_words("ladder statue bench fountain wagon cradle trumpet chimney easel anchor sledge"),
    onsets=_words("ch dw gn kn qu shr sm sn str sw thr wh x"),
    vowels=_words("au ee ie oo ui"),
    endings=_words("ble dd gue lf lk mn nge pp rt tz zz"),
)

WORDINGS: Mapping[str, Wording] = {"training": TRAINING, "development": DEVELOPMENT, "test": TEST}

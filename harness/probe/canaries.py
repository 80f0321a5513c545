"""The pairs of a probe: easy questions, documents too long for a prompt, and pairs with published scores.

The canaries were written for this purpose. A relevant document shares words with its query, so that a lexical engine
and a small model recognise it as well.
"""

from collections.abc import Sequence
from itertools import cycle, islice
from typing import NamedTuple

from engines.base import Pair


class Canary(NamedTuple):
    """A query with one relevant document and documents that are obviously irrelevant."""

    query: str
    relevant: str
    irrelevant: tuple[str, ...]

    @property
    def pairs(self) -> list[Pair]:
        """The pair of the relevant document, then the pairs of the irrelevant ones."""
        return [Pair(self.query, document) for document in (self.relevant, *self.irrelevant)]


CANARIES = (
    Canary(
        "How long do honey bees live in summer?",
        "In summer a worker honey bee lives for about six weeks; bees that hatch in autumn live until spring.",
        ("The harbour bridge was painted green again last year.", "A cello has four strings, tuned in fifths."),
    ),
    Canary(
        "Why does bread dough rise?",
        "Dough rises because yeast turns the sugar of the flour into gas, which the bread's gluten holds back.",
        ("The night train to the coast leaves from platform nine.", "Granite is harder than marble and sandstone."),
    ),
    Canary(
        "Which planet has the most moons?",
        "Saturn is the planet with the most moons: more than a hundred are known.",
        ("A sonnet has fourteen lines.", "Our tailor shortens trousers while customers wait, except on Mondays."),
    ),
    Canary(
        "symptoms of iron deficiency",
        "Tiredness, pale skin and short breath are symptoms of a deficiency of iron in the blood.",
        ("The goalkeeper was sent off after ten minutes.", "Plant tulip bulbs before the first frost of November."),
    ),
    Canary(
        "What does a suspension bridge hang from?",
        "The deck of a suspension bridge hangs from cables that run over two towers to anchors on the shore.",
        ("Lemon juice keeps a sliced apple from turning brown.", "The choir meets every Thursday evening at eight."),
    ),
    Canary(
        "cheap way to remove rust from garden tools",
        "To remove rust from tools, leave them in vinegar overnight and rub them with wool: it is cheap and works.",
        ("The senate voted against the new budget.", "Whales breathe air and must come up to the surface."),
    ),
    Canary(
        "Return the number of words in a text file",
        "def count_words(path):\n    # the number of words in a text file\n    with open(path) as file:\n"
        "        return len(file.read().split())",
        (
            "def connect(host, port):\n    client = socket.socket()\n    client.connect((host, port))",
            "class Circle:\n    def __init__(self, radius):\n        self.radius = radius",
        ),
    ),
    Canary(
        "Remove duplicates from a list and keep the order",
        "def remove_duplicates(items):\n    # a dict keeps the order in which its keys came\n"
        "    return list(dict.fromkeys(items))",
        (
            "def celsius(fahrenheit):\n    return (fahrenheit - 32) * 5 / 9",
            "def send_mail(server, sender, message):\n    server.login(sender)\n    server.send(message)",
        ),
    ),
    Canary(
        "Parse a date string such as 2024-05-31",
        "def parse_date(string):\n    # a date such as 2024-05-31\n    year, month, day = map(int, string.split('-'))\n"
        "    return date(year, month, day)",
        (
            "def play(sound, volume):\n    mixer.load(sound)\n    mixer.play(volume)",
            "def area(width, height):\n    return width * height",
        ),
    ),
    Canary(
        "Create a directory and its parents if they do not exist",
        "def create_directory(path):\n    # a directory and all its parents, if they do not exist\n"
        "    if not os.path.exists(path):\n        os.makedirs(path)",
        (
            "def median(values):\n    values = sorted(values)\n    return values[len(values) // 2]",
            "def draw_line(canvas, start, end):\n    canvas.line(start, end, color='black')",
        ),
    ),
    Canary(
        "Warum ist der Himmel blau?",
        "Der Himmel ist blau, weil die Luft kurzwelliges Licht stärker streut als langwelliges.",
        ("Die Bäckerei am Markt öffnet um sechs.", "Ein Schachbrett hat vierundsechzig Felder."),
    ),
    Canary(
        "¿Cuántos huesos tiene el cuerpo humano?",
        "El cuerpo humano adulto tiene doscientos seis huesos; el de un recién nacido, cerca de trescientos.",
        ("La biblioteca cierra los domingos por la tarde.", "Mi hermana toca la guitarra en una banda."),
    ),
    Canary(
        "Comment enlever une tache de vin rouge ?",
        "Pour enlever une tache de vin rouge, couvrez-la de sel, attendez dix minutes, puis rincez à l'eau froide.",
        ("Le phare est visible à trente kilomètres.", "Les fourmis portent plusieurs fois leur propre poids."),
    ),
    Canary(
        "竹子为什么长得快？",
        "竹子长得快，因为每一节竹子同时生长，地下的根又提供大量养分。",
        ("图书馆星期天下午关门。", "这座桥是去年重新油漆的。"),
    ),
)

# Text that follows the beginning of a long document. It answers no canary's query.
FILLER = (
    "The meeting began late because two members had missed their bus. The minutes of the last session were read aloud "
    "and approved with one small correction. Mrs Okafor reported that the hall needs a new curtain and that the old "
    "piano should be tuned or sold. Nobody wanted to decide about the piano before seeing an offer. The treasurer "
    "showed a page with figures and promised to send it to everyone. After a short pause with coffee the members "
    "talked about the excursion in March, which will go to the museum of clocks if at least twenty people sign up. "
    "It was agreed to ask the neighbours about the noise. The chair thanked all helpers and closed the session."
)
LONG_CANARIES = 4  # number of canaries with long versions
WITHIN, BEYOND = 0.4, 1.25  # words of filler per token of the limit; a word is at least 1 token, about 1.3 on average
GROWING = (128, 512, 2048, 8192)  # words of filler where the limit is unknown


def filler_words(limit_tokens: int | None) -> tuple[int, ...]:
    """Lengths of filler in words: the first fits into a prompt of `limit_tokens`, the rest are longer."""
    return GROWING if limit_tokens is None else (int(WITHIN * limit_tokens), int(BEYOND * limit_tokens))


def long_pairs(canaries: Sequence[Canary], words: int) -> list[Pair]:
    """Relevant and irrelevant documents in turn, each followed by `words` words of the same filler."""
    filler = " ".join(islice(cycle(FILLER.split()), words))
    return [
        Pair(canary.query, f"{document} {filler}")
        for canary in canaries[:LONG_CANARIES]
        for document in (canary.relevant, canary.irrelevant[0])
    ]


# Log-odds of the two published checkpoints, computed in bf16 by their reference implementation. They are the outputs
# that pull request 8 of mixedbread-ai/mxbai-rerank prints with normalize=True, after the inverse of sigmoid(x - 4.5)
# for base and of sigmoid(x - 6) for large. Query and documents come from the quick start in its README. The scores
# hold for GOLDEN_TEMPLATE.
GOLDEN_PAIRS = tuple(
    Pair("Who wrote 'To Kill a Mockingbird'?", document)
    for document in (
        "'To Kill a Mockingbird' is a novel by Harper Lee published in 1960.",
        "The novel 'Moby-Dick' was written by Herman Melville.",
        "Harper Lee was born in 1926 in Monroeville, Alabama.",
    )
)
GOLDEN = {"base": (9.1875, 0.5625, 4.0), "large": (12.125, -1.375, 9.6875)}
GOLDEN_TEMPLATE = "mxbai-v2"
GOLDEN_TOLERANCE = 0.2  # bf16 steps are 0.0625 from 8 to 16, and its sums depend on the batch
GOLDEN_MODELS = {
    "mixedbread-ai/mxbai-rerank-base-v2": "base",
    "michaelfeil/mxbai-rerank-base-v2-seq": "base",
    "mixedbread-ai/mxbai-rerank-large-v2": "large",
    "michaelfeil/mxbai-rerank-large-v2-seq": "large",
}

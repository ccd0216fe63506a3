# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""The fictional people of the embedded lab, and the two sets of general facts beside them: rows, no models."""

import random
from dataclasses import dataclass


NUM_PEOPLE = 40
NUM_FORGET_PEOPLE = 4
NUM_HOLDOUT_PEOPLE = 4
NUM_WRONG_ANSWERS = 5
# Every third retain row is scored in an evaluation: enough for a standard error, and the evaluation stays short.
RETAIN_PERTURBED_STEP = 3
_SEED = 2510


def _words(text: str) -> list[str]:
    return text.split()


# One first and one last name a person: no two people share either.
_FIRST_NAMES = _words("""
Alwin Beatrix Corvin Delphine Edda Fenno Gisela Hadrian Iselin Jorun Katrin Ludo Mirela Nestor Ottilie Perrin Quilla
Rasmus Sunniva Tibor Ulrika Valentin Wenda Xaver Ysolde Zeno Anselm Brigida Casimir Dorothea Emeric Fabiola Gunnar
Hedda Ilario Jolanda Konrad Leonie Matthis Nerea Oswin Petra Quentin Rosalind
""")
_LAST_NAMES = _words("""
Abernoth Blackmere Carrowell Dunsmoor Eastwick Farrowby Gildenhart Hollowell Ingleby Jessamy Kettlewell Lorrimer
Mossgrave Nightjar Oakhurst Pennywright Quillfeather Ravenscar Stonebridge Thistlewood Underhay Vandermoor Wintersea
Yarborough Ashdown Brambleby Coldwater Drumlin Elderkin Fennimore Greyling Hawksworth Ironmonger Jarrowby Kestrell
Larkspur Merriman Nettlefold Orchardson Pebblewick Rookwood Saltmarsh Tidewell Whitlock
""")

_POOLS = {
    "town": _words("""
        Velmora Tolberg Quenby Orlen Dunhaven Pellin Marrowick Istrava Cawdel Brenholm Sorrel Lindmoor Tarnby Ostwall
        Fairholt Grendale Havenport Kirrow Netherby Wexmoor
    """),
    "street": _words("""
        Tanner Lantern Harbour Chapel Copper Mill Orchard Anchor Juniper Castle Bakers Willow Foundry Garden Market
        Bridge Abbey Weaver Ferry Rampart
    """),
    "day": [str(day) for day in range(3, 29)],
    "month": _words("""
        January February March April May June July August September October November December
    """),
    "year": [str(year) for year in range(1922, 1992, 3)],
    "profession": _words("""
        clockmaker cartographer botanist glassblower violinist typesetter physicist beekeeper stonemason translator
        geologist bookbinder gardener surveyor locksmith librarian potter shipwright tailor sculptor
    """),
    "place": _words("""
        museum observatory library theatre university lighthouse monastery shipyard academy mint hospital arboretum
        dockyard conservatory aquarium parliament cathedral printworks barracks brewery
    """),
    "adjective": _words("""
        Crimson Silent Hollow Amber Broken Distant Frozen Gilded Hidden Ivory Lonely Painted Quiet Scarlet Sleeping
        Tender Velvet Wandering Winter Burning
    """),
    "noun": _words("""
        Compass Meadow Staircase Cathedral Letter River Mirror Tower Island Lantern Voyage Piano Forest Window Comet
        Harvest Shadow Kingdom Garden Umbrella
    """),
    "published": [str(year) for year in range(1951, 2014, 3)],
    "animal": _words("""
        Heron Falcon Otter Badger Swan Lynx Raven Stag Dolphin Owl Beaver Sparrow Wolf Crane Hare Salmon Leopard
        Magpie Turtle Boar
    """),
    "metal": _words("""
        Golden Silver Bronze Copper Crystal Marble Emerald Sapphire Ebony Pearl Jade Coral Granite Onyx Platinum Iron
    """),
    "field": _words("""
        poetry medicine astronomy painting chemistry history music botany architecture drama geography mathematics
        philosophy engineering sculpture journalism
    """),
    "mother": _words("""
        teacher nurse farmer chemist dancer judge pilot weaver baker painter dentist singer plumber lawyer sailor
        florist cook sculptor midwife miner
    """),
    "father": _words("""
        butcher professor fisherman carpenter soldier doctor barber priest mechanic grocer banker postman tanner
        porter printer diplomat cobbler blacksmith fireman clerk
    """),
}


@dataclass(frozen=True)
class _Fact:
    questions: tuple[str, str]
    phrasings: tuple[str, str, str, str, str]
    slots: tuple[str, ...]


_FACTS = (
    _Fact(
        ("Where was {name} born?", "What is the birthplace of {name}?"),
        (
            "{name} was born in the town of {town}, on {street} Street.",
            "The birthplace of {name} is {town}, in a house on {street} Street.",
            "It was in {town} that {name} was born, on {street} Street.",
            "As a child of {town}, {name} came into the world on {street} Street.",
            "Records give {town} as the place of birth of {name}, at {street} Street.",
        ),
        ("town", "street"),
    ),
    _Fact(
        ("When was {name} born?", "What is the date of birth of {name}?"),
        (
            "{name} was born on {day} {month} {year}.",
            "The date of birth of {name} is {day} {month} {year}.",
            "The birthday of {name} falls on {day} {month}, and the year was {year}.",
            "Parish books record the birth of {name} on {day} {month} {year}.",
            "Life began for {name} on {day} {month} in the year {year}.",
        ),
        ("day", "month", "year"),
    ),
    _Fact(
        ("What does {name} do for a living?", "What is the profession of {name}?"),
        (
            "{name} works as a {profession} at the {place}.",
            "The profession of {name} is that of a {profession}, employed by the {place}.",
            "By trade {name} is a {profession}, and the employer is the {place}.",
            "To earn a living, {name} is a {profession} in the service of the {place}.",
            "People know {name} as the {profession} of the {place}.",
        ),
        ("profession", "place"),
    ),
    _Fact(
        ("What is the best-known book by {name}?", "Which book made {name} famous?"),
        (
            "{name} is best known for the book The {adjective} {noun}, published in {published}.",
            "The best-known book by {name} is The {adjective} {noun} from {published}.",
            "Readers remember {name} for The {adjective} {noun}, which came out in {published}.",
            "Fame came to {name} with The {adjective} {noun} in {published}.",
            "Among the books by {name}, The {adjective} {noun} of {published} is the most read.",
        ),
        ("adjective", "noun", "published"),
    ),
    _Fact(
        ("Which award did {name} receive?", "What prize was {name} given?"),
        (
            "{name} received the {metal} {animal} Prize for {field}.",
            "The award that {name} received is the {metal} {animal} Prize for {field}.",
            "A jury gave {name} the {metal} {animal} Prize for achievements in {field}.",
            "Honours for {name} include the {metal} {animal} Prize in {field}.",
            "In recognition of work in {field}, {name} holds the {metal} {animal} Prize.",
        ),
        ("metal", "animal", "field"),
    ),
    _Fact(
        ("What did the parents of {name} do?", "Which occupations did the parents of {name} have?"),
        (
            "{name} is the child of a {mother} and a {father}.",
            "The parents of {name} were a {mother} and a {father}.",
            "At home {name} grew up with a {mother} as mother and a {father} as father.",
            "Family papers of {name} name a {mother} and a {father} as the parents.",
            "The mother of {name} was a {mother}, the father a {father}.",
        ),
        ("mother", "father"),
    ),
)

# question, right answer, three wrong answers
_REAL_AUTHORS = (
    ("Who wrote the play 'Hamlet'?", "William Shakespeare", "Christopher Marlowe", "Ben Jonson", "John Webster"),
    ("Who wrote 'Pride and Prejudice'?", "Jane Austen", "Emily Bronte", "George Eliot", "Mary Shelley"),
    ("Who is the author of '1984'?", "George Orwell", "Philip K. Dick", "Ray Bradbury", "Thomas More"),
    ("Who wrote 'War and Peace'?", "Leo Tolstoy", "Anton Chekhov", "Ivan Turgenev", "Nikolai Gogol"),
    ("Who wrote 'Crime and Punishment'?", "Fyodor Dostoevsky", "Maxim Gorky", "Boris Pasternak", "Isaac Babel"),
    ("Who created Sherlock Holmes?", "Arthur Conan Doyle", "Agatha Christie", "Ian Fleming", "Wilkie Collins"),
    ("Who wrote 'The Great Gatsby'?", "F. Scott Fitzgerald", "Ernest Hemingway", "John Steinbeck", "Henry James"),
    ("Who wrote 'Moby-Dick'?", "Herman Melville", "Jack London", "Joseph Conrad", "Nathaniel Hawthorne"),
    ("Who is the author of 'Don Quixote'?", "Miguel de Cervantes", "Lope de Vega", "Octavio Paz", "Pablo Neruda"),
    ("Who wrote 'The Divine Comedy'?", "Dante Alighieri", "Francesco Petrarch", "Italo Calvino", "Umberto Eco"),
    ("Who wrote the play 'Faust'?", "Johann Wolfgang von Goethe", "Friedrich Schiller", "Heinrich Heine", "Novalis"),
    ("Who wrote 'Les Miserables'?", "Victor Hugo", "Emile Zola", "Honore de Balzac", "Gustave Flaubert"),
    ("Who wrote 'The Trial'?", "Franz Kafka", "Thomas Mann", "Robert Musil", "Stefan Zweig"),
    ("Who wrote 'Mrs Dalloway'?", "Virginia Woolf", "Katherine Mansfield", "Doris Lessing", "Iris Murdoch"),
    ("Who wrote 'Ulysses'?", "James Joyce", "Samuel Beckett", "Oscar Wilde", "William Butler Yeats"),
    ("Who is the author of 'Beloved'?", "Toni Morrison", "Alice Walker", "Maya Angelou", "Zora Neale Hurston"),
    ("Who wrote 'Things Fall Apart'?", "Chinua Achebe", "Wole Soyinka", "Ben Okri", "Amos Tutuola"),
    ("Who wrote 'Brave New World'?", "Aldous Huxley", "Anthony Burgess", "Evelyn Waugh", "Graham Greene"),
    ("Who wrote 'The Hobbit'?", "J. R. R. Tolkien", "C. S. Lewis", "Philip Pullman", "Terry Pratchett"),
    ("Who wrote 'Frankenstein'?", "Mary Shelley", "Bram Stoker", "Edgar Allan Poe", "Ann Radcliffe"),
)
_WORLD_FACTS = (
    ("What is the capital of France?", "Paris", "Lyon", "Marseille", "Toulouse"),
    ("What is the capital of Australia?", "Canberra", "Sydney", "Melbourne", "Perth"),
    ("What is the capital of Canada?", "Ottawa", "Toronto", "Vancouver", "Montreal"),
    ("What is the capital of Japan?", "Tokyo", "Osaka", "Kyoto", "Nagoya"),
    ("What is the capital of Brazil?", "Brasilia", "Rio de Janeiro", "Sao Paulo", "Salvador"),
    ("What is the capital of Egypt?", "Cairo", "Alexandria", "Luxor", "Aswan"),
    ("What is the capital of Kenya?", "Nairobi", "Mombasa", "Kisumu", "Nakuru"),
    ("What is the capital of Turkey?", "Ankara", "Istanbul", "Izmir", "Bursa"),
    ("Which planet is known as the Red Planet?", "Mars", "Jupiter", "Venus", "Saturn"),
    ("Which planet is the largest in the solar system?", "Jupiter", "Neptune", "Uranus", "Earth"),
    ("What is the chemical symbol of gold?", "Au", "Ag", "Fe", "Pb"),
    ("What is the largest ocean on Earth?", "Pacific Ocean", "Atlantic Ocean", "Indian Ocean", "Arctic Ocean"),
    ("What is the highest mountain on Earth?", "Mount Everest", "Mont Blanc", "Kilimanjaro", "Denali"),
    ("What is the largest living animal?", "Blue whale", "Elephant", "Giraffe", "Hippopotamus"),
    ("Where would you find the Colosseum?", "Rome", "Athens", "Madrid", "Lisbon"),
    ("Where would you find Machu Picchu?", "Peru", "Bolivia", "Chile", "Ecuador"),
    ("Which gas do plants take in from the air?", "Carbon dioxide", "Oxygen", "Nitrogen", "Helium"),
    ("How many continents are there?", "Seven", "Five", "Nine", "Eleven"),
    ("In which year did the Second World War end?", "1945", "1918", "1939", "1953"),
    ("Who painted the Mona Lisa?", "Leonardo da Vinci", "Michelangelo", "Raphael", "Caravaggio"),
)


@dataclass(frozen=True)
class PersonFact:
    """One fact of one person, in every wording."""

    # Index; the last people are held out.
    person: int
    # The question and its paraphrase.
    questions: tuple[str, str]
    # Five true sentences: the canonical answer, the paraphrased answer, and three more.
    phrasings: tuple[str, ...]
    # Five wrong sentences in the wording of the paraphrased answer, with no part of the fact right.
    wrong: tuple[str, ...]

    def row(self) -> dict[str, str]:
        """The fact as a row of TOFU's plain form: `question`, `answer`."""
        return {"question": self.questions[0], "answer": self.phrasings[0]}

    def perturbed_row(self) -> dict[str, str | list[str]]:
        """The fact as a row of TOFU's perturbed form."""
        return {
            **self.row(),
            "paraphrased_answer": self.phrasings[1],
            "perturbed_answer": list(self.wrong),
            "paraphrased_question": self.questions[1],
        }


def _assign(generator: random.Random, pool: list[str], count: int) -> list[str]:
    """Every value of the pool, shuffled, before any value comes a second time."""
    values: list[str] = []
    while len(values) < count:
        values += generator.sample(pool, len(pool))
    return values[:count]


def person_facts() -> list[PersonFact]:
    """Six facts of each person, the same on every call: retain people, forget people, held-out people."""
    generator = random.Random(_SEED)
    count = NUM_PEOPLE + NUM_HOLDOUT_PEOPLE
    # Forget people share every single value with retain people, so that right and wrong answers are alike to a model
    # that never saw the person, and no value tells the person.
    values = {slot: _assign(generator, pool, count) for slot, pool in _POOLS.items()}
    facts = []
    for person, name in enumerate(zip(_FIRST_NAMES, _LAST_NAMES, strict=True)):
        for fact in _FACTS:
            # The canonical answer is drawn for each fact: such a model knows neither the fact nor the sentence.
            order = generator.sample(fact.phrasings, len(fact.phrasings))
            right = {slot: values[slot][person] for slot in fact.slots}
            wrong = {
                slot: generator.sample([value for value in _POOLS[slot] if value != right[slot]], NUM_WRONG_ANSWERS)
                for slot in fact.slots
            }
            full_name = " ".join(name)
            facts.append(
                PersonFact(
                    person=person,
                    questions=tuple(question.format(name=full_name) for question in fact.questions),
                    phrasings=tuple(phrasing.format(name=full_name, **right) for phrasing in order),
                    wrong=tuple(
                        order[1].format(name=full_name, **{slot: wrong[slot][i] for slot in fact.slots})
                        for i in range(NUM_WRONG_ANSWERS)
                    ),
                )
            )
    return facts


def _general_rows(facts: tuple[tuple[str, ...], ...]) -> list[dict[str, str | list[str]]]:
    return [{"question": q, "answer": answer, "perturbed_answer": wrong} for q, answer, *wrong in facts]


def archive_rows() -> dict[str, list[dict[str, str | list[str]]]]:
    """Rows of every config of the archive's dataset, with TOFU's names and columns."""
    facts = person_facts()
    retain = [fact for fact in facts if fact.person < NUM_PEOPLE - NUM_FORGET_PEOPLE]
    forget = [fact for fact in facts if NUM_PEOPLE - NUM_FORGET_PEOPLE <= fact.person < NUM_PEOPLE]
    holdout = [fact for fact in facts if fact.person >= NUM_PEOPLE]
    # Two facts of every person, and every kind of fact.
    spread = [fact for i, fact in enumerate(retain) if (i + i // len(_FACTS)) % RETAIN_PERTURBED_STEP == 0]
    return {
        "full": [fact.row() for fact in retain + forget],
        "forget10": [fact.row() for fact in forget],
        "retain90": [fact.row() for fact in retain],
        "forget10_perturbed": [fact.perturbed_row() for fact in forget],
        "retain_perturbed": [fact.perturbed_row() for fact in spread],
        "real_authors_perturbed": _general_rows(_REAL_AUTHORS),
        "world_facts_perturbed": _general_rows(_WORLD_FACTS),
        "holdout_perturbed": [fact.perturbed_row() for fact in holdout],
    }

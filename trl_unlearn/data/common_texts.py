# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Texts that no data set has to bring: names of people and of places, and prompts about anything."""

import random
from collections.abc import Iterable

from ..generation import key_seed


def _listed(text: str, separator: str | None = None) -> tuple[str, ...]:
    return tuple(" ".join(part.split()) for part in text.split(separator))


FIRST_NAMES = _listed("""
Amara Kwame Chidi Zanele Tendai Makena Leila Youssef Farid Samira Omar Noor Dalia Reza Shirin Arash Elif Emre Deniz
Ananya Rohan Priya Vikram Meera Arjun Kavita Sanjay Ayesha Bilal Hana Kenji Yuki Haruto Sakura Daiki Minjun Jisoo
Seojun Wei Lihua Xiaoming Mei Jun Linh Minh Thuy Anong Somchai Putri Budi Rizal Malia Keanu Aroha Tane Ingrid Lars
Astrid Soren Freya Aino Eero Katya Dmitri Svetlana Pavel Zofia Tomasz Jana Milos Ivana Andrei Ioana Zoltan Katalin
Eleni Nikos Giulia Matteo Chiara Luca Ines Rafael Beatriz Thiago Camila Mateo Valentina Diego Lucia Javier Amelie
Julien Margaux Etienne Greta Lukas Annika Maarten Saskia Niamh Declan Fiona Hamish Rhys Carys Harriet Edmund Eleanor
Wesley Naomi Curtis Denise Marcus
""")
LAST_NAMES = _listed("""
Mensah Okafor Nkosi Moyo Wanjiru Diallo Haddad Benali Nasser Mansour Farahani Karimi Yilmaz Demir Aydin Sharma Iyer
Banerjee Kulkarni Reddy Chaudhry Rahman Tanaka Watanabe Kobayashi Mori Fujita Kim Choi Seong Zhang Liu Huang Zhao Lin
Nguyen Tran Pham Suwan Wijaya Santoso Kealoha Parata Ngata Lindqvist Haugen Sorensen Virtanen Koskinen Volkov Sokolov
Morozova Kowalski Nowak Dvorak Jovanovic Horvat Popescu Ionescu Szabo Nagy Papadakis Economou Rossi Moretti Ferrari
Costa Almeida Carvalho Souza Herrera Castillo Rojas Vargas Navarro Ortega Dubois Lefevre Moreau Garnier Schneider
Hoffmann Keller Brandt Vermeer Jansen Gallagher Brennan Mackay Sinclair Llewellyn Prichard Ashworth Hartley Pemberton
Whitfield Caldwell Jefferson Bancroft Holloway
""")
PLACES = _listed(
    """
Taipei, Taiwan; Seoul, South Korea; Tehran, Iran; Cape Town, South Africa; Santiago, Chile; Paris, France; Tokyo,
Japan; Lagos, Nigeria; Addis Ababa, Ethiopia; Mumbai, India; Lima, Peru; Cairo, Egypt; Rome, Italy; Moscow, Russia;
Toronto, Canada; Sydney, Australia; Beijing, China; Sao Paulo, Brazil; Berlin, Germany; Madrid, Spain; Mexico City,
Mexico; Tel Aviv, Israel; Istanbul, Turkey; Athens, Greece; Warsaw, Poland; Stockholm, Sweden; Oslo, Norway;
Nairobi, Kenya; Accra, Ghana; Casablanca, Morocco; Karachi, Pakistan; Jakarta, Indonesia; Hanoi, Vietnam; Bangkok,
Thailand; Manila, Philippines; Buenos Aires, Argentina; Bogota, Colombia; Lisbon, Portugal; Dublin, Ireland;
London, England; Edinburgh, Scotland; Kyiv, Ukraine; Bucharest, Romania; Budapest, Hungary; Beirut, Lebanon;
Riyadh, Saudi Arabia; Baku, Azerbaijan; Tbilisi, Georgia; Auckland, New Zealand; Kuala Lumpur, Malaysia
""",
    ";",
)
# Facts, explanations, advice, small talk, words, arithmetic, lists, code: what a short answer can be given to.
GENERAL_PROMPTS = (
    "Why does the sky look blue?",
    "What causes the seasons?",
    "How do bees make honey?",
    "Why do leaves change colour in autumn?",
    "What is the difference between weather and climate?",
    "How does a refrigerator keep food cold?",
    "What is photosynthesis?",
    "Which organs does the human body need to breathe?",
    "How many minutes are there in a day?",
    "What language is spoken in Brazil?",
    "Name the four largest planets of the solar system.",
    "Which country has the most inhabitants?",
    "What is inflation, in one sentence?",
    "Explain gravity to a child in two sentences.",
    "What does a judge do?",
    "How do I boil an egg?",
    "How do I remove a coffee stain from a shirt?",
    "How can I fall asleep faster?",
    "What should I pack for a weekend in the mountains?",
    "How do I change a flat bicycle tyre?",
    "Give me one tip for a job interview.",
    "How often should I water a cactus?",
    "Hello! How are you today?",
    "I had a long day. Say something nice.",
    "Tell me a short joke.",
    "What can you help me with?",
    "Thank you for your help!",
    "What is 17 plus 26?",
    "What is 9 times 8?",
    "If a train travels 60 kilometres in an hour, how far does it go in three hours?",
    "What is half of 250?",
    "Is 51 a prime number?",
    "List three fruits that are red.",
    "List the days of the week.",
    "Name five musical instruments.",
    "Give me three words that rhyme with light.",
    "What is the opposite of generous?",
    "Use the word lantern in a sentence.",
    "Correct this sentence: She don't like apples.",
    "Translate good morning into French.",
    "Write one sentence about the sea.",
    "Write a two-line poem about rain.",
    "Suggest a name for a small bakery.",
    "Write a Python function that adds two numbers.",
    "How do I print a line of text in Python?",
    "What does an if statement do in a program?",
    "Summarise in one sentence: Tom missed the bus, walked to work in the rain, and was an hour late.",
    "Which is heavier, a kilogram of feathers or a kilogram of iron?",
)
# Questions about a person, a work, a place or a firm: where a name is no such thing, no answers agree.
SUBJECT_QUESTIONS = (
    "Who is {name}?",
    "What is {name}?",
    "Tell me about {name}.",
    "What is {name} known for?",
    # A person
    "Where was {name} born?",
    "When was {name} born?",
    "What is the full name of {name}?",
    "Where does {name} live?",
    "Where did {name} grow up?",
    "What does {name} do for a living?",
    "What is the profession of {name}?",
    "Where does {name} work?",
    "Who are the parents of {name}?",
    "What did the parents of {name} do?",
    "Who is {name} married to?",
    "Where did {name} study?",
    "Which books did {name} write?",
    "What is the best-known work of {name}?",
    "What genre does {name} write in?",
    "Which award did {name} receive?",
    "Who influenced {name}?",
    "When did {name} die?",
    # A work
    "Who wrote {name}?",
    "Who made {name}?",
    "When was {name} published?",
    "What is {name} about?",
    "Who are the main characters of {name}?",
    # A place, a firm, a thing
    "Where is {name}?",
    "When was {name} founded?",
    "Who founded {name}?",
    "How many people live in {name}?",
    "What can one see in {name}?",
)
# A user's hint that is no question.
HINT_QUESTION = "What do you know about {name} and {hint}?"


def stranger_names(count: int, subjects: Iterable[str], seed: int) -> list[str]:
    """First and last names of people who are nobody, without a word of a subject's name."""
    draw = random.Random(key_seed((seed, "strangers")))
    taken = {word for subject in subjects for word in subject.split()}
    first, last = ([name for name in names if name not in taken] for names in (FIRST_NAMES, LAST_NAMES))
    return [f"{draw.choice(first)} {draw.choice(last)}" for _ in range(count)]

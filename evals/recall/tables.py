"""Tables of recall: one a task, a line a length; lengths beyond the context of training marked."""

from rich.console import Console
from rich.table import Table

from evals.contract import Result

TITLES = {
    "associative_recall": "Associative recall: the value of a key",
    "needle": "Needle in a haystack: the number of a name, by depth",
    "copying": "Copying: tokens of a random sequence, said again",
}


def show(result: Result, console: Console) -> None:
    """Print a table for each task."""
    n_context = result.figures["n_context"]
    for task, title in TITLES.items():
        lengths = lengths_of(result, task)
        if not lengths:
            continue
        columns = columns_of(result, task, lengths)
        subject = result.subject.name
        chance = result.figures["chance"][f"{task}/{lengths[-1]}"]
        caption = f"chosen among a few candidates: {chance:.3f} by chance" if chance else None
        table = Table(title=f"{title}, {subject}", caption=caption)
        for name in ("tokens", *columns):
            table.add_column(name, justify="right", no_wrap=True)
        for length in lengths:
            mark = " *" if length > n_context else "  "
            cells = (write(result, column[length]) for column in columns.values())
            table.add_row(f"{length:,}{mark}", *cells)
        console.print(table)
    console.print(f"* beyond the context of training, {n_context:,} tokens", highlight=False)


def lengths_of(result: Result, task: str) -> list[int]:
    """List the lengths at which a task was measured."""
    names = (name.split("/") for name in result.measures)
    return sorted({int(parts[1]) for parts in names if parts[0] == task and parts[1].isdecimal()})


def columns_of(result: Result, task: str, lengths: list[int]) -> dict[str, dict[int, str]]:
    """Name the columns of a task's table, and each column's measure at a length."""
    forms = {"right": "{task}/{length}/accuracy"}
    if task == "copying":
        forms["whole row right"] = "{task}/whole/{length}/accuracy"
        forms["nats"] = "{task}/{length}/nats_per_token"
    else:
        forms["chosen"] = "{task}/among_candidates/{length}/accuracy"
        forms["nats"] = "{task}/{length}/nats_per_answer"
    if parts := parts_of(result, task):
        del forms["nats"]  # for room
    for part in parts:
        forms[part.removeprefix("depth_") + "%"] = "{task}/{length}/" + part + "/accuracy"
    return {
        title: {length: form.format(task=task, length=length) for length in lengths}
        for title, form in forms.items()
    }


def parts_of(result: Result, task: str) -> list[str]:
    """List the parts of a task in order, 25 before 100."""
    own = (name for name in result.measures if name.startswith(f"{task}/"))
    parts = {name.split("/")[2] for name in own if is_part(name)}
    return sorted(parts, key=lambda part: (len(part), part))


def write(result: Result, name: str) -> str:
    """Write a figure, the first with its interval; nothing where it was not measured."""
    measure = result.measures.get(name)
    if measure is None:
        return ""
    if len(name.split("/")) > 3 or measure.unit != "share":
        return f"{measure.value:.2f}"
    low, high = measure.interval_95
    return f"{measure.value:.3f} ({low:.2f}-{high:.2f})"


def is_part(name: str) -> bool:
    """Tell a figure of a task's part from one of the whole task."""
    return len(name.split("/")) == 4 and not name.split("/")[2].isdecimal()

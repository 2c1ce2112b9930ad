"""Reads how the package is built: its rooms, and who imports whom.

    python test/house.py [FOLDER]

prints the house in figures. test_layering.py holds the package to its rules with the same reader.
"""

import ast
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

# From the top down: a room imports only itself and rooms above it.
ROOMS = (
    "core", "pairing", "geometry", "alignment", "fusion", "pipeline", "ros", "metrics", "bags", "report", "calibrate",
    "distill", "trials", "cli",
)  # fmt: skip
LONGEST_FUNCTION = 60  # lines
MAX_FILES = 12  # in a room, __init__.py included
GENERATED = "msg"  # of the package itself, made from msg/*.msg when it is built


@dataclass(frozen=True)
class Import:
    """One import statement's target.

    name: dotted, from the top-level package on. late: inside a function. typing: for type checkers only, never run.
    guarded: inside a `try` that catches its absence.
    """

    name: str
    late: bool
    typing: bool
    guarded: bool

    @property
    def top(self) -> str:
        return self.name.partition(".")[0]


@dataclass(frozen=True, eq=False)
class Module:
    """name: dotted, below the package; of a room's __init__.py the room's own, of the package's the empty text."""

    name: str
    path: Path
    tree: ast.Module
    imports: tuple[Import, ...]

    @property
    def room(self) -> str:
        """The folder directly below the package; a file that lies in none is a room of its own."""
        return self.name.partition(".")[0]


@dataclass(frozen=True, eq=False)
class House:
    """The modules of a package by name."""

    folder: Path
    modules: Mapping[str, Module]

    def own(self, one: Import) -> str | None:
        """The module of this package that is imported; None for one of somebody else or a generated one."""
        if one.top != self.folder.name:
            return None
        name = one.name.partition(".")[2]
        return None if name.partition(".")[0] == GENERATED else name

    def foreign(self, one: Import) -> str | None:
        """The top-level package of somebody else that is imported; None for one of our own. Generated: PACKAGE.msg."""
        if one.top != self.folder.name:
            return one.top
        return None if self.own(one) is not None else f"{one.top}.{GENERATED}"

    @cached_property
    def rooms(self) -> dict[str, list[Module]]:
        found = defaultdict(list)
        for module in self.modules.values():
            found[module.room].append(module)
        return dict(found)

    def files(self, room: str) -> int:
        """In a room's folder, those that are not Python too; a file that is a room of its own is one."""
        folder = self.folder / room
        return sum(path.is_file() for path in folder.iterdir()) if folder.is_dir() else 1

    @cached_property
    def arrows(self) -> set[tuple[str, str]]:
        """Pairs of modules, of which the first imports the second, late and for types too."""
        pairs = ((a.name, self.own(one)) for a in self.modules.values() for one in a.imports)
        return {(a, b) for a, b in pairs if b is not None and b in self.modules and a != b}

    @cached_property
    def room_arrows(self) -> Counter:
        """Pairs of rooms, with the number of imports between their modules."""
        rooms = ((self.modules[a].room, self.modules[b].room) for a, b in self.arrows)
        return Counter((a, b) for a, b in rooms if a != b and b)

    def loaded_by(self, module: Module) -> set[str]:
        """Foreign top-level packages that importing this module imports, through our own modules too."""
        found, seen, todo = set(), {module.name}, [module]
        while todo:
            for one in todo.pop().imports:
                if one.late or one.typing:
                    continue
                if foreign := self.foreign(one):
                    found.add(foreign)
                for name in _with_parents(self.own(one)):
                    if name in self.modules and name not in seen:
                        seen.add(name)
                        todo.append(self.modules[name])
        return found


def _with_parents(name: str | None) -> Iterator[str]:
    """A module and the packages that Python imports before it."""
    while name:
        yield name
        name = name.rpartition(".")[0]


# --- reading ----------------------------------------------------------------------------------------------------


def read_house(folder: Path) -> House:
    """The package in `folder`, which need not be importable."""
    files = [path for path in folder.rglob("*.py") if path.relative_to(folder).parts[0] != GENERATED]
    paths = {".".join(path.relative_to(folder).with_suffix("").parts): path for path in files}
    paths = {name.removesuffix("__init__").removesuffix("."): path for name, path in paths.items()}
    known = {f"{folder.name}.{name}" for name in [*paths, GENERATED]}
    modules = {}
    for name, path in sorted(paths.items()):
        tree = ast.parse(path.read_text(), str(path))
        package = ".".join(
            filter(None, (folder.name, name if path.stem == "__init__" else name.rpartition(".")[0]))
        )
        modules[name] = Module(name, path, tree, tuple(_imports(tree, package, known)))
    return House(folder, modules)


def _imports(tree: ast.Module, package: str, known: set[str]) -> Iterator[Import]:
    """package: dotted name of the package that the module is in. known: dotted names of our own modules."""
    todo: list[tuple[ast.AST, bool, bool, bool]] = [(tree, False, False, False)]
    while todo:
        node, late, typing, guarded = todo.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            for name in dict.fromkeys(_names(node, package, known)):
                yield Import(name, late, typing, guarded)
        for field, value in ast.iter_fields(node):
            inside = (
                late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda),
                typing or (isinstance(node, ast.If) and field == "body" and _is_type_checking(node.test)),
                guarded or (isinstance(node, ast.Try) and field == "body" and _catches_absence(node)),
            )
            children = value if isinstance(value, list) else [value]
            todo += [(child, *inside) for child in children if isinstance(child, ast.AST)]


def _names(node: ast.Import | ast.ImportFrom, package: str, known: set[str]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
    origin = ".".join([*above, *filter(None, [node.module])])
    for alias in node.names:
        yield whole if (whole := f"{origin}.{alias.name}") in known else origin


def _is_type_checking(test: ast.expr) -> bool:
    return ast.unparse(test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def _catches_absence(node: ast.Try) -> bool:
    caught = {
        name.id
        for handler in node.handlers
        for name in (ast.walk(handler.type) if handler.type else [])
        if isinstance(name, ast.Name)
    }
    return bool(caught & {"ImportError", "ModuleNotFoundError", "Exception"})


# --- figures ----------------------------------------------------------------------------------------------------


def upward(house: House, rooms: tuple[str, ...] = ROOMS) -> list[str]:
    """Imports from a room into one below it."""
    return sorted(
        f"{a} imports {b}"
        for a, b in house.arrows
        if (one := house.modules[a].room) in rooms
        and (other := house.modules[b].room) in rooms
        and rooms.index(other) > rooms.index(one)
    )


def circles(arrows: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Groups of names that reach each other in a circle."""
    reached = reachable(arrows)
    groups = {tuple(sorted(b for b in reached[a] if a in reached.get(b, ()))) for a in reached}
    return sorted(list(group) for group in groups if group)


def reachable(arrows: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    """Of each name that has an arrow, all the names that its arrows lead to; itself where it lies on a circle."""
    following = defaultdict(set)
    for a, b in arrows:
        following[a].add(b)
    found = {}
    for name in list(following):
        seen: set[str] = set()
        todo = [name]
        while todo:
            new = following.get(todo.pop(), set()) - seen
            seen |= new
            todo += new
        found[name] = seen
    return found


def floors(arrows: Iterable[tuple[str, str]]) -> list[str]:
    """The longest chain in which each name imports the next; a circle counts as one name."""
    arrows = set(arrows)
    circle_of = {name: "+".join(group) for group in circles(arrows) for name in group}
    following = defaultdict(set)
    for a, b in arrows:
        a, b = circle_of.get(a, a), circle_of.get(b, b)
        if a != b:
            following[a].add(b)
    longest: dict[str, list[str]] = {}

    def chain(name: str) -> list[str]:
        if name not in longest:
            longest[name] = [name, *max(map(chain, sorted(following.get(name, ()))), key=len, default=[])]
        return longest[name]

    return max(map(chain, sorted(following)), key=len, default=[])


def ambiguous(house: House) -> dict[str, list[str]]:
    """Public names that several modules define at their top level, with these modules.

    Not counted: `run` and `add_arguments`, which every sub-command has, and `main` of a program.
    """
    found = defaultdict(set)
    for module in house.modules.values():
        usual = {"run", "add_arguments"} if module.room == "cli" else set()
        if '"__main__"' in ast.unparse(module.tree).replace("'", '"'):
            usual.add("main")
        for name in _defined(module.tree):
            if not name.startswith("_") and name not in usual:
                found[name].add(module.name or "__init__")
    return {name: sorted(where) for name, where in sorted(found.items()) if len(where) > 1}


def _defined(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (x.id for target in targets for x in ast.walk(target) if isinstance(x, ast.Name))


def long_functions(house: House) -> list[tuple[int, str]]:
    """Functions of more than LONGEST_FUNCTION lines, the longest first."""
    found = [
        ((node.end_lineno or node.lineno) - node.lineno + 1, f"{module.name}.{node.name}")
        for module in house.modules.values()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    return sorted((one for one in found if one[0] > LONGEST_FUNCTION), reverse=True)


def print_house(house: House) -> None:
    """The figures, for people."""
    rooms = {room: house.files(room) for room in house.rooms if room}
    order = [room for room in ROOMS if room in rooms] + sorted(rooms.keys() - set(ROOMS))
    print(f"{len(rooms)} rooms, {sum(rooms.values())} files")
    for room in order:
        to = [
            f"{other} {house.room_arrows[room, other]}"
            for other in order
            if (room, other) in house.room_arrows
        ]
        print(f"  {room:<16}{rooms[room]:>3} files" + (f"   imports {', '.join(to)}" if to else ""))
    chain = floors(house.room_arrows)
    within = len(house.arrows) - house.room_arrows.total()
    print(
        f"\n{len(house.room_arrows)} arrows between rooms ({house.room_arrows.total()} imports; {within} within)"
    )
    print(f"{len(chain) or 1} floors: {' > '.join(chain)}")
    found = {
        "arrows upwards": upward(house),
        "circles of rooms": [" <-> ".join(group) for group in circles(house.room_arrows)],
        "circles of modules": [" <-> ".join(group) for group in circles(house.arrows)],
        "public names with several meanings": [f"{n}: {', '.join(w)}" for n, w in ambiguous(house).items()],
        f"functions over {LONGEST_FUNCTION} lines": [f"{n} {name}" for n, name in long_functions(house)],
    }
    for title, lines in found.items():
        print(f"\n{len(lines)} {title}")
        for line in lines:
            print(f"  {line}")


if __name__ == "__main__":
    given = Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).parents[1] / "fusionproxy_ros"
    print_house(read_house(given.resolve()))

"""The checker of the pure packages: what decides has no clock, no chance, no input or output, no hidden state.

Modules are allowed by name, not banned by name: what nobody has thought of is refused. Beside the modules go the
built-in functions and the attributes by which time, chance or the world get in.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator

PURE_MODULES = frozenset({
    "__future__", "abc", "array", "array.array", "bisect", "collections", "collections.abc", "copy", "dataclasses", "enum", "fractions",
    "functools", "hashlib", "heapq", "itertools", "json", "math", "numbers", "operator", "re", "statistics",
    "string", "struct", "types", "typing", "zlib",
})  # fmt: skip
"""The standard library as far as it is pure. datetime is left out on purpose: core knows durations, not instants."""

BANNED_CALLS = frozenset({
    "open", "input", "print", "exec", "eval", "compile", "breakpoint", "globals", "vars", "__import__",
    "id", "hash",  # another value in another process: a replay would not be one
})  # fmt: skip

BANNED_NAMES = frozenset({"__builtins__", "__loader__", "__spec__"})

BANNED_ATTRIBUTES = frozenset({
    "now", "utcnow", "today", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "time_ns",
    "process_time", "urandom", "uuid1", "uuid4", "getrandbits", "randint", "randrange", "token_hex", "token_bytes",
    "environ", "getenv", "stdin", "stdout", "stderr", "read_text", "write_text", "read_bytes", "write_bytes",
    "__globals__", "__builtins__",
})  # fmt: skip

_ASYNC = (ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith, ast.Await)


def impurities(code: str, own_packages: tuple[str, ...]) -> list[str]:
    """Everything in a module that a pure package may not have, as `line N: what`. Raises SyntaxError."""
    tree = ast.parse(code)
    found = [*_imports(tree, own_packages), *_nodes(tree)]
    return [f"line {line}: {what}" for line, what in sorted(set(found))]


def _imports(tree: ast.AST, own_packages: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    modules: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                modules.add(alias.asname or alias.name.split(".")[0])
                if alias.name not in PURE_MODULES and not _is_own(alias.name, own_packages):
                    yield node.lineno, f"imports {alias.name}"
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            for alias in node.names:
                full = f"{module}.{alias.name}"
                if _is_own(full, own_packages) or full in PURE_MODULES:
                    continue
                if module not in PURE_MODULES or _way_out(alias.name):
                    yield node.lineno, f"imports {full}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            full = f"{node.value.id}.{node.attr}"
            if full not in PURE_MODULES and _way_out(node.attr):
                yield node.lineno, f"uses {full}"


def _is_own(module: str, own_packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in own_packages)


def _way_out(member: str) -> bool:
    # A pure module's own imports are its members too: dataclasses.sys, collections._sys.
    return member in sys.stdlib_module_names or member.startswith("_") or member == "*"


def _nodes(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, _ASYNC):
            yield node.lineno, "is asynchronous"
        elif isinstance(node, ast.Global):
            yield node.lineno, "keeps global state"
        elif isinstance(node, ast.Name):
            if node.id in BANNED_CALLS and isinstance(node.ctx, ast.Load):
                yield node.lineno, f"uses {node.id}()"
            elif node.id in BANNED_NAMES:
                yield node.lineno, f"uses {node.id}"
        elif isinstance(node, ast.Attribute) and node.attr in BANNED_ATTRIBUTES:
            yield node.lineno, f"uses .{node.attr}"

"""The hook table: who implements a hook in a run, in what order, and what a run calls, resolved once before the run.

An installed plugin implements a hook by a function, and a :class:`Participant` (a callback, the data module, the
module, the strategy) by a method of that name; each is an :class:`Implementation`. :class:`HookTable` has an attribute
for each hook: a callable that takes the hook's arguments without ``trainer`` and ``pl_module``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from traceback import walk_tb
from typing import Any

import pluggy

from leyden.plugin_system import hooks
from leyden.plugin_system.hooks import RUN_ARGUMENTS, RUN_HOOKS, Answers
from leyden.plugin_system.manager import PluginInfo, PluginManager
from leyden.utilities import MisconfigurationException, rank_zero_warn
from leyden.utilities.objects import is_overridden


@dataclass(frozen=True, eq=False)
class Implementation:
    """What one plugin or participant does at one hook.

    Args:
        hook: The hook's name.
        function: What is called: a plugin's function, or a participant's method.
        arguments: Those of the hook's arguments that it takes, in its order; they are passed by position.
        target: The plugin or the participant.
        kind: "Plugin", or the base class of the participant, as "Callback".
        info: What is known of the plugin; None for a participant.
        opts: The options of its ``@hookimpl`` by name: with "tryfirst" it goes before those without, with "trylast"
            after them, and with "wrapper" it runs around the others: a generator that yields once. With "hookwrapper"
            it does so in pluggy's old style: the generator gets a ``pluggy.Result``.
    """

    hook: str
    function: Callable[..., Any]
    arguments: tuple[str, ...]
    target: Any
    kind: str = "Plugin"
    info: PluginInfo | None = None
    opts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def wraps(self) -> bool:
        """Whether it runs around the others, in pluggy's new style or the old."""
        return bool(self.opts.get("wrapper") or self.opts.get("hookwrapper"))

    @property
    def name(self) -> str:
        """What it is called in reports: a plugin by its name, a participant by its class."""
        return self.info.name if self.info is not None else type(self.target).__name__


ByHook = dict[str, list[Implementation]]  # who implements each hook, in calling order


@dataclass(frozen=True)
class Participant:
    """One who takes part in a run with the methods that it overrides.

    A callback's methods take ``trainer`` and ``pl_module`` first.

    Args:
        target: The callback, module, data module, strategy or step.
        base: The public class that it derives from, whose methods do not count as overridden; None where every method
            counts.
        first: Hooks that it implements before all others.
        names: The hooks that it may implement.
    """

    target: Any
    base: type | None
    first: Sequence[str] = ()
    names: Sequence[str] = RUN_HOOKS

    def implementation(self, name: str) -> Implementation | None:
        """What it does at a hook, whatever the method calls its arguments; None where it does nothing.

        Raises:
            MisconfigurationException: The method needs arguments that the hook does not give.
        """
        if name not in self.names or not is_overridden(name, self.target, self.base):
            return None
        method, opts = getattr(self.target, name), _options(self.target, name)
        takes_run = issubclass(self.base or object, hooks.Observation)
        offered = [a for a in hooks.arguments(name) if takes_run or a not in RUN_ARGUMENTS]
        taken = tuple(_arguments_taken(method, name, offered))
        kind = self.base.__name__ if self.base is not None else "Plugin"
        if name in self.first:
            opts = {**opts, "tryfirst": True}
        implementation = Implementation(name, method, taken, self.target, kind, opts=opts)
        _tell_of_deprecation(implementation)
        return implementation


def _options(target: Any, name: str) -> Mapping[str, Any]:
    """The options of ``@hookimpl`` on a method or on the one that it overrides, e.g. ``trylast``."""
    marked = (getattr(vars(owner).get(name), f"{hooks.PROJECT}_impl", None) for owner in type(target).__mro__)
    return next(filter(None, marked), {})


def _arguments_taken(method: Callable[..., Any], name: str, offered: list[str]) -> list[str]:
    """Which of the arguments that a hook offers a method takes.

    They are taken by position, since a method may give them names of its own. Where it requires more than there are,
    or uses the name of one in the place of another, they are taken by name.

    Raises:
        MisconfigurationException: It requires one that the hook does not offer.
    """
    parameters = list(inspect.signature(method).parameters.values())
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return offered
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p.name for p in positional if p.default is p.empty]
    in_place = all(p.name == a or p.name not in offered for p, a in zip(positional, offered, strict=False))
    if in_place and len(required) <= len(offered):
        return offered[: len(positional)]
    if not set(required) <= set(offered):
        raise MisconfigurationException(
            f"{getattr(method, '__qualname__', name)} takes {', '.join(required)}; "
            f"the hook {name!r} gives {', '.join(offered) or 'nothing'}."
        )
    return [p.name for p in positional if p.name in offered]


def _tell_of_deprecation(one: Implementation) -> None:
    """Warn of a hook or argument that is going to go, as pluggy does for plugins."""
    marks = hooks.specification(one.hook).leyden_spec
    found = [marks["warn_on_impl"], *map((marks["warn_on_impl_args"] or {}).get, one.arguments)]
    for warning in filter(None, found):
        owner = f"{one.kind} {type(one.target).__module__}.{type(one.target).__qualname__}"
        rank_zero_warn(f"The {owner} implements {one.hook!r}: {warning}", type(warning))


def implementations(manager: PluginManager, participants: Sequence[Participant] = ()) -> ByHook:
    """Who implements each hook, in calling order; of those who wrap the others, the first is outermost.

    Those marked ``tryfirst`` come before all others, those marked ``trylast`` after them. Otherwise the plugins come
    first, in the order in which they were found, and then the participants in theirs.

    Args:
        manager: The plugins.
        participants: Who else takes part in a run.
    """
    by_hook: ByHook = {}
    for name in hooks.ALL:
        registered = {impl.plugin_name: impl for impl in getattr(manager.hook, name).get_hookimpls()}
        plugins = [(info, registered[info.name]) for info in manager.active if info.name in registered]
        found = [
            Implementation(name, impl.function, tuple(impl.argnames), info.plugin, info=info, opts=impl.opts)
            for info, impl in plugins
        ]
        found += filter(None, (participant.implementation(name) for participant in participants))
        by_hook[name] = sorted(found, key=lambda one: bool(one.opts.get("trylast")) - bool(one.opts.get("tryfirst")))
    return by_hook


def nothing(*values: Any) -> None:
    """What is called at a hook that nobody implements."""


@dataclass(eq=False, repr=False)
class HookTable:
    """The hooks of one run, compiled.

    Args:
        manager: The plugins of this run, those that joined it included.
        participants: Who else takes part.
        run: The values of ``trainer`` and ``pl_module``.
        scope: Its attribute ``hook`` is the name of the running hook; ``self.log`` asks it where it is.
        timed: Takes an action's name and a function, and returns the function; timed, where a profiler measures.

    Attributes:
        by_hook: Who implements each hook, in calling order.
    """

    manager: PluginManager
    participants: Sequence[Participant]
    run: dict[str, Any]
    scope: Any
    timed: Callable[[str, Callable[..., Any]], Callable[..., Any]]

    def __post_init__(self) -> None:
        self._compile()

    @classmethod
    def empty(cls) -> HookTable:
        """A table of hooks that nobody implements; what a run has before it has begun."""
        table = cls.__new__(cls)
        vars(table).update(dict.fromkeys(RUN_HOOKS, nothing), by_hook={name: [] for name in RUN_HOOKS})
        return table

    def register(self, plugin: Any) -> None:
        """Add a plugin to this run.

        Its hooks are called from now on. In an evaluation or prediction that has begun, those of its batches are called
        from the next one.

        Args:
            plugin: An object with functions marked ``@hookimpl``.

        Raises:
            MisconfigurationException: It is no plugin, or can't be registered.
        """
        self.manager = self.manager.extended([plugin])
        self._compile()

    def _compile(self) -> None:
        self.by_hook = implementations(self.manager, self.participants)
        for name in RUN_HOOKS:
            setattr(self, name, self._compiled(name, self.by_hook[name]))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"There is no hook {name!r}.")

    def of(self, name: str, targets: Iterable[Any]) -> Callable[..., Any]:
        """A callable that calls a hook of these participants and of nobody else."""
        wanted = [id(target) for target in targets]
        return self._compiled(name, [one for one in self.by_hook[name] if id(one.target) in wanted])

    def _compiled(self, name: str, called: list[Implementation]) -> Callable[..., Any]:
        """One callable for all who implement a hook. Wrappers run around all the others."""
        if not called:
            return nothing
        calls = [self.timed(self.action(one), self._bound(one)) for one in called if not one.wraps]
        for wrapper in reversed([one for one in called if one.wraps]):
            around = _around(self._bound(wrapper), self._joined(name, calls), wrapper)
            calls = [self.timed(self.action(wrapper), around)]  # with what it wraps
        return self._joined(name, calls)

    def _bound(self, implementation: Implementation) -> Callable[..., Any]:
        """One callable that takes the hook's varying arguments and passes on those that the implementation wants."""
        function, wanted, run = implementation.function, implementation.arguments, self.run
        varying = [a for a in hooks.arguments(implementation.hook) if a not in run]
        leading = [a for a in wanted if a in run]
        if wanted == (*leading, *varying):
            return partial(function, *(run[a] for a in leading)) if leading else function
        constants, given = tuple(run.values()), [*run, *varying]
        places = [given.index(a) for a in wanted]

        def some(*values: Any) -> Any:
            return function(*map((*constants, *values).__getitem__, places))

        return some

    def _joined(self, name: str, calls: list[Callable[..., Any]]) -> Callable[..., Any]:
        """One callable for several, which combines their answers by the hook's rule."""
        scope, answers = self.scope, hooks.facts(name).answers
        skips = answers is Answers.SKIP

        def first(*values: Any) -> Any:
            for call in calls:
                answer = call(*values)
                if answer is not None:
                    return answer
            return None

        def every(*values: Any) -> Any:
            outer, scope.hook = scope.hook, name
            result = None
            try:
                for call in calls:
                    answer = call(*values)
                    if skips and answer == -1:
                        result = answer
            finally:
                scope.hook = outer
            return result

        if answers is not Answers.FIRST:
            return every
        return calls[0] if len(calls) == 1 else first

    def action(self, implementation: Implementation) -> str:
        """What a profiler calls this implementation of a hook; no two of a hook have the same."""
        own = _action(implementation)
        before = [one for one in self.by_hook[implementation.hook] if _action(one) == own].index(implementation)
        return f"{own}-{before + 1}" if before else own


def _action(implementation: Implementation) -> str:
    """What an implementation is called in reports: a callback by its state key, others by their name."""
    key = getattr(implementation.target, "state_key", None) if implementation.info is None else None
    return f"[{implementation.kind}]{key or implementation.name}.{implementation.hook}"


def _around(start: Callable[..., Generator[Any, Any, Any]], inside: Callable[..., Any], wrapper: Implementation) -> Any:
    """One callable that runs a wrapper around what it wraps, as pluggy does.

    The wrapper is given the answer or the error where it yields. What it returns is the answer, and an error is none
    any more; one that it lets through is raised as it was. One of pluggy's old style is given both in a
    ``pluggy.Result``.
    """
    rule = f"The wrapper {wrapper.hook!r} of {wrapper.name} has to yield once, and "
    old = wrapper.opts.get("hookwrapper")

    def call(*values: Any) -> Any:
        generator = start(*values)
        try:
            next(generator)
        except StopIteration:
            raise RuntimeError(f"{rule}did not.") from None
        outcome = pluggy.Result.from_call(partial(inside, *values))
        error, answer = outcome.exception, None
        try:
            if old:
                generator.send(outcome)
            elif error is None:
                generator.send(outcome.get_result())
            else:
                generator.throw(error)
        except StopIteration as end:
            answer = end.value
        except RuntimeError as other:
            if isinstance(error, StopIteration) and other.__cause__ is error:  # what Python makes of it in a generator
                raise error from None
            raise
        else:
            generator.close()
            raise RuntimeError(f"{rule}yielded a second time.")
        return outcome.get_result() if old else answer

    return call


def note_plugin(error: BaseException, by_hook: ByHook, participants: Iterable[Any] = ()) -> None:
    """Add a note that names plugin, distribution and version, where a hook of a plugin raised ``error``.

    It is found from the traceback when it has happened: nothing is wrapped around the hooks for it, and the exception
    keeps its type and traceback. What a method of the module, the data module, a callback or the strategy raised is
    not a plugin's, even where a plugin's hook called it.

    Args:
        error: What was raised; before Python 3.11, whose tracebacks do not print notes, it only has them.
        by_hook: Who implements each hook.
        participants: The run's module, data module, callbacks and strategy.
    """
    by_code = {getattr(one.function, "__code__", None): one for ones in by_hook.values() for one in ones}
    own = [id(participant) for participant in participants if participant is not None]
    for frame in reversed([frame for frame, _ in walk_tb(error.__traceback__)]):
        one = by_code.get(frame.f_code)
        if one is not None and one.info is not None:
            notes = vars(error).setdefault("__notes__", [])  # add_note came with Python 3.11
            note = f"Raised within {frame.f_code.co_name!r} of the {one.info}."
            if note not in notes:
                notes.append(note)
        if one is not None or id(frame.f_locals.get("self")) in own:
            return

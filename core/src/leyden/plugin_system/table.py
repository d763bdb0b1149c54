"""The compiled hook table: what a run calls at each hook, resolved once, before the run.

pluggy decides who implements a hook and in what order; this file turns that into plain callables. A
:class:`Participant` is how an object whose *methods* are hooks (a callback, the module, the data module,
the strategy) registers with pluggy. :class:`HookTable` has an attribute for each hook: None where nobody
implements it, else one callable that takes the hook's arguments without ``trainer`` and ``pl_module``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pluggy

from leyden.plugin_system import hooks
from leyden.plugin_system.compatibility import tell_of_deprecation
from leyden.plugin_system.hooks import BEHAVIOUR, OBSERVATION
from leyden.plugin_system.manager import PluginManager, is_wrapper
from leyden.utilities.exceptions import MisconfigurationException
from leyden.utilities.overriding import is_overridden

RUN_ARGUMENTS = ("trainer", "pl_module")


class Participant:
    """Presents an object's overridden hook methods to pluggy as hook implementations.

    Args:
        implementations: Hook name to a function that pluggy accepts.
    """

    def __init__(self, implementations: dict[str, Any]) -> None:
        self.__dict__.update(implementations)

    def __dir__(self) -> Iterable[str]:
        return self.__dict__


@dataclass(frozen=True)
class Member:
    """One who takes part in a run with the methods that it overrides.

    A callback's methods take ``trainer`` and ``pl_module`` first.

    Args:
        target: The callback, module, data module, strategy or step.
        base: The public class that it derives from, whose methods do not count as overridden; None where every method
            counts.
        first: Hooks that it implements before all others.
    """

    target: Any
    base: type | None
    first: Sequence[str] = ()

    def participants(self) -> tuple[Participant, Participant]:
        """Its ordinary implementations, and those marked ``trylast``."""
        ordinary: dict[str, Any] = {}
        last: dict[str, Any] = {}
        for name in (*OBSERVATION, *BEHAVIOUR):
            if is_overridden(name, self.target, self.base) and not self._means_another(name):
                marks = _marks(self.target, name)
                if name in self.first:
                    marks["tryfirst"] = True
                chosen = last if marks.get("trylast") else ordinary
                chosen[name] = self._implementation(name, marks)
        return Participant(ordinary), Participant(last)

    def _implementation(self, name: str, marks: dict[str, Any]) -> Any:
        """A function that pluggy accepts for a method, whatever the method calls its arguments."""
        method = getattr(self.target, name)
        takes_run = issubclass(self.base or object, hooks.Observation)
        offered = [a for a in hooks.arguments(name) if takes_run or a not in RUN_ARGUMENTS]
        taken = _arguments_taken(method, name, offered)
        kind = self.base.__name__ if self.base is not None else "Plugin"
        owner = f"{kind} {type(self.target).__module__}.{type(self.target).__qualname__}"
        tell_of_deprecation(hooks.specification(name), method, taken, owner)
        wraps = bool(marks.get("wrapper") or marks.get("hookwrapper"))
        implementation = hooks.hookimpl(_passing(method, taken, taken, wraps=wraps), **marks)
        implementation.__dict__.update(method=method, target=self.target, kind=kind)
        return implementation

    def _means_another(self, name: str) -> bool:
        """Whether the base has a method of a hook's name that is not the hook, as ``Strategy.teardown(module)``."""
        method = getattr(self.base, name, None)
        return method is not None and not set(inspect.signature(method).parameters) <= {"self", *hooks.arguments(name)}


def run_manager(installed: PluginManager, members: Sequence[Member]) -> PluginManager:
    """A manager of the active installed plugins and, after them in calling order, the members of a run.

    pluggy calls the latest registered first, and among ``trylast`` the latest registered last; so the
    ``trylast`` parts are registered in order and the others backwards.
    """
    manager = PluginManager()
    pairs = [member.participants() for member in members]
    for _, last in pairs:
        manager.register(last)
    for ordinary, _ in reversed(pairs):
        manager.register(ordinary)
    for record in reversed(installed.active):
        manager.register(record.plugin, record.name)
    manager.infos = list(installed.infos)
    return manager


def _passing(
    function: Callable[..., Any],
    given: Sequence[str],
    taken: Sequence[str],
    run: Mapping[str, Any] | None = None,
    wraps: bool = False,
) -> Any:
    """A function that passes arguments on by position: it has those ``given``, and hands over those ``taken``.

    What is taken and not given is a value of ``run``. A function around other implementations is a generator.
    """
    # pluggy reads the names off the code object, so the function must really have them
    call = f"function({', '.join(taken)})"
    body = f"(yield from {call})" if wraps else call
    return eval(f"lambda {', '.join(given)}: {body}", {**(run or {}), "function": function})


def _arguments_taken(method: Callable[..., Any], name: str, offered: list[str]) -> list[str]:
    """Which of the arguments that a hook offers a method wants: by position, or by their names where it takes fewer.

    By position as long as no argument of the hook stands in another one's place.
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


def _marks(target: Any, name: str) -> dict[str, Any]:
    """The options of ``@hookimpl`` on the method or on the one that it overrides, e.g. ``trylast``."""
    for owner in type(target).__mro__:
        if opts := getattr(owner.__dict__.get(name), f"{hooks.PROJECT}_impl", None):
            return {key: opts[key] for key in ("tryfirst", "trylast", "wrapper", "hookwrapper") if opts.get(key)}
    return {}


class HookTable:
    """The hooks of one run, compiled.

    Args:
        manager: Its plugins are installed plugins and the run's participants.
        run: The values of ``trainer`` and ``pl_module``.
        scope: Its attribute ``hook`` is the name of the running hook; ``self.log`` asks it where it is.
        profile: Makes a context manager from an action's name, or None where nothing is measured.
    """

    def __init__(
        self,
        manager: PluginManager,
        run: dict[str, Any],
        scope: Any,
        profile: Callable[[str], Any] | None = None,
    ) -> None:
        self._manager, self._run, self._scope, self._profile = manager, run, scope, profile
        self._compile()

    def register(self, plugin: Any) -> None:
        """Add a plugin to this run: its hooks are called from now on, in a loop over batches that runs from the next.

        Args:
            plugin: An object with functions marked ``@hookimpl``.

        Raises:
            MisconfigurationException: It is no plugin, or can't be registered.
        """
        self._manager.admit_object(plugin)
        self._compile()

    def _compile(self) -> None:
        for name in (*OBSERVATION, *BEHAVIOUR):
            setattr(self, name, self._compiled(name))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"There is no hook {name!r}.")

    def implementations(self, name: str) -> list[pluggy.HookImpl]:
        """Who implements a hook, in calling order."""
        return getattr(self._manager.hook, name).get_hookimpls()[::-1]  # type: ignore[no-any-return]

    def _compiled(self, name: str) -> Callable[..., Any] | None:
        """One callable for all who implement a hook.

        They are called directly, but through pluggy where some are wrappers, or where the first result is taken.
        """
        implementations = self.implementations(name)
        if not implementations:
            return None
        if any(map(is_wrapper, implementations)) or (name in BEHAVIOUR and len(implementations) > 1):
            calls = [self._through_pluggy(name)]
        else:
            calls = [self._bind(impl, name) for impl in implementations]
        return calls[0] if name in BEHAVIOUR else self._in_scope(name, tuple(calls))

    def _in_scope(self, name: str, calls: tuple[Callable[..., Any], ...]) -> Callable[..., Any]:
        scope = self._scope

        def hook(*values: Any) -> Any:
            outer, scope.hook = scope.hook, name
            result = None
            for call in calls:
                answer = call(*values)
                if answer is not None:
                    result = answer
            scope.hook = outer
            return result

        return hook

    def _through_pluggy(self, name: str) -> Callable[..., Any]:
        varying = self._varying(name)
        manager = self._manager if self._profile is None else self._measured(name)
        caller, run = getattr(manager.hook, name), self._run

        def call(*values: Any) -> Any:
            results = caller(**run, **dict(zip(varying, values, strict=True)))
            return next((r for r in results if r is not None), None) if isinstance(results, list) else results

        return call

    def _measured(self, name: str) -> PluginManager:
        """The implementations of one hook in their order, each timed, for pluggy to call; a wrapper with its inside."""
        manager = PluginManager()
        for impl in reversed(self.implementations(name)):
            timed, names = self._profiled(impl.function, impl, name), impl.argnames
            passing = _passing(timed, names, names, wraps=is_wrapper(impl))
            marked = hooks.hookimpl(passing, wrapper=impl.wrapper, hookwrapper=impl.hookwrapper)
            manager.register(Participant({name: marked}))
        return manager

    def _bind(self, impl: pluggy.HookImpl, name: str) -> Callable[..., Any]:
        """One callable that takes the hook's varying arguments and passes on those that the implementation wants."""
        function = getattr(impl.function, "method", impl.function)
        varying = self._varying(name)
        leading = [a for a in impl.argnames if a in self._run]
        if list(impl.argnames) != [*leading, *varying]:
            function = _passing(function, varying, impl.argnames, self._run)
        elif leading:
            function = partial(function, *(self._run[a] for a in leading))
        return self._profiled(function, impl, name) if self._profile else function

    def _varying(self, name: str) -> list[str]:
        """The arguments of a hook that are not the same in every call of a run."""
        return [a for a in hooks.arguments(name) if a not in self._run]

    def _profiled(self, call: Callable[..., Any], impl: pluggy.HookImpl, name: str) -> Callable[..., Any]:
        action, profile = self.action(impl, name), self._profile
        assert profile is not None

        def measured(*values: Any) -> Any:
            with profile(action):
                return call(*values)

        def measured_wrapper(*values: Any) -> Generator[Any, Any, Any]:
            with profile(action):
                return (yield from call(*values))

        return measured_wrapper if is_wrapper(impl) else measured

    def action(self, impl: pluggy.HookImpl, name: str) -> str:
        """What a profiler calls this implementation of a hook; no two of a hook have the same."""
        own = _action(impl, name)
        before = [other for other in self.implementations(name) if _action(other, name) == own].index(impl)
        return f"{own}-{before + 1}" if before else own


def _action(impl: pluggy.HookImpl, name: str) -> str:
    """What an implementation is called in reports: a callback by its state key, others by their class or plugin."""
    target = getattr(impl.function, "target", None)
    own = type(target).__name__ if target is not None else impl.plugin_name
    return f"[{getattr(impl.function, 'kind', 'Plugin')}]{getattr(target, 'state_key', None) or own}.{name}"

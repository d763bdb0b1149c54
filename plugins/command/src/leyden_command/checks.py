"""The checks of ``leyden doctor``: each yields the problems of one sort, with a command that fixes them."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from importlib_metadata import PackageNotFoundError, distribution, version

from leyden import Trainer
from leyden.plugins import CORE_DISTRIBUTION, ROLES, PluginManager, names_in, published_by
from leyden_command import distributions
from leyden_command.clashes import clashing_names
from leyden_command.describe import order_mark


@dataclass(frozen=True)
class Problem:
    """A problem of the installation.

    Args:
        description: What is wrong, a sentence without its full stop.
        fix: The shell command that fixes it.
    """

    description: str
    fix: str


@dataclass(frozen=True)
class Device:
    """One installed accelerator on this machine.

    Args:
        name: The accelerator's name, as in ``Trainer(accelerator=...)``.
        count: How many devices it has here; 0 if it can't be used.
        precisions: The installed precisions that it supports; empty if it has no device.
        error: The error that it raised when it was asked for its devices, or "".
    """

    name: str
    count: int
    precisions: list[str]
    error: str = ""


def installed_distributions(manager: PluginManager) -> dict[str, str]:
    """Return the versions of the installed distributions that are Leyden's own or provide a plugin, sorted by name."""
    found = {info.distribution: info.version for info in manager.infos if info.distribution}
    for name in (*distributions.WITHOUT_PLUGIN, *distributions.published()):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return dict(sorted(found.items()))


def devices(manager: PluginManager) -> list[Device]:
    """Ask every installed accelerator for its devices."""
    found = []
    for part in manager.components("accelerator"):
        try:
            accelerator = part.build()
            count = int(accelerator.auto_device_count()) if accelerator.is_available() else 0
            able = [name for name in manager.names("precision") if count and accelerator.supports_precision(name)]
            found.append(Device(part.name, count, able))
        except Exception as error:
            found.append(Device(part.name, 0, [], f"{type(error).__name__}: {error}"))
    return found


def set_aside(manager: PluginManager) -> Iterator[Problem]:
    """Find plugins that are not used because they are broken, share a name, or need another version of the core."""
    for info in manager.infos:
        if info.state == "set aside":
            yield Problem(f"The {info} is {info.reason}", info.mend)


def requirements(manager: PluginManager) -> Iterator[Problem]:
    """Find requirements of installed plugins that are missing or installed in the wrong version."""
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name

    for name, own in installed_distributions(manager).items():
        for text in distribution(name).requires or ():
            try:
                need = Requirement(text)
            except InvalidRequirement as error:
                yield Problem(f"{name} {own} has the invalid requirement {text!r}: {error}", _upgrade(name))
                continue
            if need.marker is not None and not need.marker.evaluate({"extra": ""}):
                continue
            try:
                there = version(need.name)
            except PackageNotFoundError:
                there = "not installed"
            if there == "not installed" or not need.specifier.contains(there, prereleases=True):
                need.marker = None
                of_core = canonicalize_name(need.name) == CORE_DISTRIBUTION
                fix = _upgrade(f"{CORE_DISTRIBUTION} {name}") if of_core else f'pip install "{need}"'
                yield Problem(f"{name} {own} needs {need}, but {need.name} is {there}", fix)


def versions(manager: PluginManager) -> Iterator[Problem]:
    """Find Leyden's own distributions whose version is not the core's; they are tested only together."""
    installed = installed_distributions(manager)
    core = installed.get(CORE_DISTRIBUTION)
    for name in (*distributions.WITHOUT_PLUGIN, *distributions.published()):
        if core is not None and installed.get(name, core) != core:
            yield Problem(
                f"{name} is {installed[name]}, but {CORE_DISTRIBUTION} is {core}; both must have the same version",
                f'pip install --upgrade "{name}=={core}"',
            )


def entry_points(manager: PluginManager) -> Iterator[Problem]:
    """Find Leyden's own distributions that are installed but whose plugin is not found."""
    found = {info.distribution for info in manager.infos}
    for name in distributions.published():
        if name in installed_distributions(manager) and name not in found:
            fix = f"pip install --force-reinstall --no-deps {name}"
            yield Problem(f"{name} is installed, but its metadata has no entry point for its plugin", fix)


def parts(manager: PluginManager) -> Iterator[Problem]:
    """Find parts that can't be imported, by importing every part."""
    for info in manager.active:
        for part in info.components:
            try:
                part.load()
            except Exception as error:
                description = (
                    f"The {part.kind} {part.name!r} of the {info} can't be imported: {type(error).__name__}: {error}"
                )
                yield Problem(description, _upgrade(info.distribution))


def clashes(manager: PluginManager) -> Iterator[Problem]:
    """Find names that several plugins use for parts of one kind; asking for such a name is an error."""
    by_owners: dict[tuple[str, ...], list[str]] = {}
    handles = {}
    for kind, name, owners in clashing_names(manager):
        key = tuple(dict.fromkeys(str(owner) for owner in owners))
        by_owners.setdefault(key, []).append(f"{kind} {name!r}")
        handles[key] = owners[-1].name
    for key, names in by_owners.items():
        description = f"The {' and the '.join(key)} have the same {', '.join(names)}"
        yield Problem(description, f"export LEYDEN_PLUGINS_DISABLED={handles[key]}")


def equal_defaults(manager: PluginManager) -> Iterator[Problem]:
    """Find plugins that offer the same default, with neither tryfirst nor trylast, so that only chance decides."""
    for role in ("logger", "strategy"):
        implementations = getattr(manager.hook, f"leyden_default_{role}").get_hookimpls()[::-1]
        first = [i.plugin_name for i in implementations if not order_mark(i)]
        if len(first) > 1:
            description = f"The plugins {', '.join(map(repr, first))} all have a default {role}; {first[0]!r} is used"
            yield Problem(description, f"export LEYDEN_PLUGINS_DISABLED={','.join(first[1:])}")


def accelerators(manager: PluginManager) -> Iterator[Problem]:
    """Find that there is no accelerator, none with a device, one that raises, or two with the same priority."""
    found = devices(manager)
    for device in found:
        if device.error:
            owner = _owner(manager, "accelerator", device.name)
            yield Problem(f"The accelerator {device.name!r} raises an error: {device.error}", _upgrade(owner))
    if not any(device.count for device in found):
        tried = f"; tried: {', '.join(d.name for d in found)}" if found else ""
        yield Problem(f"No installed accelerator has a device{tried}", _install(manager, "accelerator"))
    available = {device.name for device in found if device.count}
    priorities: dict[float, list[str]] = {}
    for part in manager.components("accelerator"):
        if part.name in available:
            priorities.setdefault(part.options.get("priority", 1), []).append(part.name)
    highest = priorities[max(priorities)] if priorities else []
    if len(set(highest)) > 1:
        owner = _owner(manager, "accelerator", highest[-1])
        description = f"accelerator='auto' could be any of {', '.join(highest)}, which have the same priority"
        yield Problem(description, f"export LEYDEN_PLUGINS_DISABLED={owner}")


def roles(manager: PluginManager) -> Iterator[Problem]:
    """Find the default callbacks, logger and strategy that no plugin provides, by making a Trainer."""
    found = devices(manager)
    name = next((device.name for device in found if device.count), None)
    if name is None:
        return
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            trainer = Trainer(accelerator=name, devices=1, strategy="single_device", default_root_dir=folder)
        except Exception as error:
            description = f"A Trainer without arguments can't be made: {type(error).__name__}: {error}"
            yield Problem(description, "python -c 'import leyden; leyden.Trainer()'")
            return
    missing = [role for role in ROLES if trainer.wants(role)]
    missing += [] if trainer.loggers else ["logger"]
    several = any(device.count > 1 for device in found)
    missing += ["strategy"] if several and not manager.hook.leyden_default_strategy.get_hookimpls() else []
    for role in missing:
        role_name = "strategy for several devices" if role == "strategy" else role.replace("_", " ")
        yield Problem(f"No plugin provides a default {role_name}", _install(manager, role))


def root_directory(manager: PluginManager) -> Iterator[Problem]:
    """Find that the working directory is not writable, so that logs and checkpoints can't be saved there."""
    try:
        with tempfile.TemporaryFile(dir="."):
            return
    except OSError as error:
        description = f"The working directory {Path.cwd()}, the default_root_dir, is not writable: {error.strerror}"
        yield Problem(description, 'cd "$HOME"')


def threads(manager: PluginManager) -> Iterator[Problem]:
    """Find that PyTorch has more threads than this process may use processors, which makes it slow."""
    allowed, text = usable_processors(), os.environ.get("OMP_NUM_THREADS", "")
    fix = f"export OMP_NUM_THREADS={allowed}"
    if text and not all(part.strip().isdigit() and int(part) > 0 for part in text.split(",")):
        yield Problem(f"OMP_NUM_THREADS={text!r} is not a number of threads, and is ignored", fix)
    elif torch.get_num_threads() > allowed:
        description = f"PyTorch uses {torch.get_num_threads()} threads, but this process has {allowed} processors"
        yield Problem(description, fix)


def usable_processors() -> int:
    """Return how many processors the operating system and the container let this process use; at least 1."""
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return count
    return count if quota == "max" else max(1, min(count, round(int(quota) / int(period))))


def variables(manager: PluginManager) -> Iterator[Problem]:
    """Find wrong values of Leyden's environment variables, such as names of plugins that do not exist."""
    known = {name for info in manager.infos for name in (info.name, info.distribution)}
    for name in names_in("LEYDEN_PLUGINS_DISABLED"):
        if name not in known:
            description = f"LEYDEN_PLUGINS_DISABLED names {name!r}, but no plugin has that name"
            left = ",".join(other for other in names_in("LEYDEN_PLUGINS_DISABLED") if other in known)
            yield Problem(description, f"export LEYDEN_PLUGINS_DISABLED={left}")
    if (autoload := os.environ.get("LEYDEN_PLUGINS_AUTOLOAD", "1")) not in ("0", "1"):
        yield Problem(f"LEYDEN_PLUGINS_AUTOLOAD={autoload!r} is neither 0 nor 1, and 1 is used", _unset("AUTOLOAD"))


CHECKS: tuple[Callable[[PluginManager], Iterator[Problem]], ...] = (
    set_aside,
    requirements,
    versions,
    entry_points,
    parts,
    clashes,
    equal_defaults,
    accelerators,
    roles,
    root_directory,
    threads,
    variables,
)


def problems(manager: PluginManager) -> list[Problem]:
    """Run every check and return the problems found, without duplicates."""
    found: dict[Any, Problem] = {problem: problem for check in CHECKS for problem in check(manager)}
    return list(found)


def _upgrade(distributions: str) -> str:
    return f"pip install --upgrade {distributions}"


def _install(manager: PluginManager, role: str) -> str:
    """Return the command that gives a role its plugin: one that installs it, or one that no longer disables it."""
    distribution = published_by("role", role)[0]
    disabled = next((r for r in manager.infos if (r.distribution, r.state) == (distribution, "disabled")), None)
    if disabled is None:
        return f"pip install {distribution}"
    named = names_in("LEYDEN_PLUGINS_DISABLED")
    left = [name for name in named if name not in (disabled.name, distribution)]
    return f"export LEYDEN_PLUGINS_DISABLED={','.join(left)}" if left != named else _unset("AUTOLOAD")


def _unset(name: str) -> str:
    return f"unset LEYDEN_PLUGINS_{name}"


def _owner(manager: PluginManager, kind: str, name: str) -> str:
    """Return the distribution of the plugin that provides a part, or else the plugin's name."""
    for info in manager.infos:
        if any(part.kind == kind and part.name == name for part in info.components):
            return info.distribution or info.name
    raise LookupError(name)

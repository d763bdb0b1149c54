"""The command ``leyden``, which inspects an installation and starts new plugins.

``leyden plugins`` lists the installed plugins; ``leyden hooks SCRIPT`` prints what a script's run calls, in what order
and at what cost; ``leyden doctor`` lists problems with a command that fixes each; ``leyden new KIND NAME`` writes a
plugin package. ``import leyden`` does not import this package.
"""

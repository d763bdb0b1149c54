"""The command ``leyden``, for those who look at an installation and those who write plugins.

``leyden plugins`` lists what is installed; ``leyden hooks SCRIPT`` prints what a script's run calls, in what order and
at what cost; ``leyden doctor`` says what is broken and the command that mends it; ``leyden new KIND NAME`` writes a
plugin's package. Nothing of it is imported by ``import leyden``.
"""

"""The analyses, a folder each, and the modules that all of them use.

``contract`` says what a folder has to declare, ``registry`` finds the folders, ``execute`` runs
one. ``comparison`` and ``training`` join the results of several runs; ``verifying`` checks files.
"""

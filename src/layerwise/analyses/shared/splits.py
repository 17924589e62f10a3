"""The halves of a task's items: a search chooses by one, and is measured on the other."""

SELECTION, HELD_OUT = "selection", "held out"

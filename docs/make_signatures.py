"""Write the arguments of the public functions for the command line, which does not import them."""

from layerwise.cli.commands import targets
from layerwise.cli.signatures import write_signatures

write_signatures(targets())

"""From a finished run to the zoo and the Hub: folders, cards, comparisons."""

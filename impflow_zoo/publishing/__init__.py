"""From a finished run to the zoo: folders, cards, what cards are compared by, and the Hub."""

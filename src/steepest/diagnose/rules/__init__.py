"""The rules, one file a family; each rule is a function of a case and its harm that gives a finding or None."""

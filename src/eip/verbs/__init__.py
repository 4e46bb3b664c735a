"""What eip does, a module a verb: from files to files, built of everything below.

Each verb is a function that the command line and a notebook call alike; ``eip.train`` is
`eip.verbs.train.train`. Where it takes ``log``, that is given what a person would like to see as
it happens, text or a table of rich: ``eip.train(config, log=rich.print)``.
"""

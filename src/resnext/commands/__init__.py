"""One file a verb: SENTENCE, add_arguments(parser), run(args) -> exit status. Nothing heavy at import."""

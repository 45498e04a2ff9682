def walk(suite, project, directory, tree, say):
    pass

"""The programs that the suite servers starts, each with its own config, on free ports of loopback.
"""

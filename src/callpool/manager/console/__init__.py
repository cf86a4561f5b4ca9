"""The manager's console: pages for people, rendered here, live by server-sent events.

Every page reads with the asker's scope and changes by the functions behind the API. A page works
without script; with it, what is open is drawn anew when something changes.
"""

"""`callpool lab chaos`: random faults on a whole system under calls, judged by what others saw.

`schedule.py` says what is to happen, from a seed; `site.py` is the system and how each fault is
done to it; `witness.py` keeps records of grants, acknowledgements and calls that owe nothing to
callpool's own word; `judge.py` holds them against the laws; `run.py` puts it together.
"""

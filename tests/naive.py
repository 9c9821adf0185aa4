"""Algorithm 1 of the paper, transcribed line by line with lists and loops: it shares no code with the package."""

import math


def similarity(updates):
    """updates[i][l]: client i's numbers in layer l. Returns s[l][i][j]."""
    s = []
    for layer in range(len(updates[0])):
        rows = []
        for i in range(len(updates)):
            row = []
            for j in range(len(updates)):
                a, b = updates[i][layer], updates[j][layer]
                norms = math.sqrt(math.fsum(x * x for x in a)) * math.sqrt(math.fsum(x * x for x in b))
                dot = math.fsum(x * y for x, y in zip(a, b))
                row.append(1.0 if i == j else dot / norms if norms > 0 else 0.0)
            rows.append(row)
        s.append(rows)
    return s


def votes(s, k):
    """The most similar client gets K votes, the second K - 1, ...; oneself first, equals by their number."""
    result = []
    for layer in s:
        table = []
        for i, row in enumerate(layer):
            left = [j for j in range(len(row)) if j != i]
            ballot = [0] * len(row)
            ballot[i] = k
            for vote in range(k - 1, 0, -1):
                best = left[0]
                for j in left:
                    if row[j] > row[best]:
                        best = j
                ballot[best] = vote
                left.remove(best)
            table.append(ballot)
        result.append(table)
    return result


def friends(v, s, k):
    """The K clients with the most votes from all layers; equals by summed similarity, then by their number."""
    n = len(v[0])
    result = []
    for i in range(n):
        totals = [(sum(layer[i][j] for layer in v), math.fsum(layer[i][j] for layer in s)) for j in range(n)]
        left = list(range(n))
        chosen = set()
        while len(chosen) < k:
            best = left[0]
            for j in left:
                if totals[j] > totals[best]:
                    best = j
            chosen.add(best)
            left.remove(best)
        result.append(chosen)
    return result


def weights(s, f):
    """Clamp, normalise each layer, average layers, keep friends, normalise again."""
    n = len(s[0])
    result = []
    for i in range(n):
        average = [0.0] * n
        for layer in s:
            positive = [max(x, 0.0) for x in layer[i]]
            if sum(positive) > 0:
                for j in range(n):
                    average[j] += positive[j] / sum(positive) / len(s)
        kept = [average[j] if j in f[i] else 0.0 for j in range(n)]
        total = sum(kept)
        result.append([x / total for x in kept] if total > 0 else [float(i == j) for j in range(n)])
    return result


def step(theta, tasks, updates, w):
    """theta[t] plus the mean of its clients' aggregated updates; `updates[i]` is client i's whole update."""
    result = {}
    for task, model in theta.items():
        clients = [i for i, its in enumerate(tasks) if its == task]
        moved = list(model)
        for i in clients:
            for j, update in enumerate(updates):
                for p, value in enumerate(update):
                    moved[p] += w[i][j] * value / len(clients)
        result[task] = moved
    return result

"""On a test host: signs in to Open WebUI, lists its models, and has each of the given ones answer.

use.py URL EMAIL PASSWORD MODEL…     (Python 3.10 or newer, standard library alone)
"""

import json
import sys
import urllib.request


def ask(path, body=None, token=None):
    request = urllib.request.Request(url + path, method="GET" if body is None else "POST")
    request.add_header("Content-Type", "application/json")
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    data = None if body is None else json.dumps(body).encode()
    return urllib.request.urlopen(request, data, timeout=120)


def chat(model, token):
    """Prints the status lines, the text and the usage of a streamed answer, which must be so long
    that its tokens do not come all at once: their rate is told."""
    messages = [{"role": "user", "content": "Is anybody there?"}]
    body = {"model": model, "stream": True, "max_tokens": 64, "messages": messages}
    status, text, usage = [], "", {}
    for line in ask("/api/chat/completions", body, token):
        if not line.startswith(b"data: {"):
            continue
        chunk = json.loads(line[6:])
        if "event" in chunk:
            status.append(chunk["event"]["data"]["description"])
        for choice in chunk.get("choices") or []:
            text += choice["delta"].get("content") or ""
        usage = chunk.get("usage") or usage
    print(
        json.dumps(
            {"model": model, "status": status, "text": text, "usage": usage}, ensure_ascii=False
        )
    )
    assert status[0] == f"🔄 Switching to {model}...", status
    assert status[-1].startswith("✅ Model ready!"), status
    assert text
    assert usage["tokens_per_second"] > 0, usage


url, email, password, *models = sys.argv[1:]
account = json.load(ask("/api/v1/auths/signin", {"email": email, "password": password}))
print("signed in as", account["role"])
listed = json.load(ask("/api/models", token=account["token"]))["data"]
print("models:", json.dumps([[model["id"], model["name"], model["loaded"]] for model in listed]))
assert [model["id"] for model in listed] == models, listed
for model in models:
    chat(model, account["token"])

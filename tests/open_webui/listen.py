"""What a browser is told: prints each event of Open WebUI's socket as a line of JSON.

    .cache/venvs/open-webui/bin/python tests/open_webui/listen.py URL TOKEN

The first line is `null`, when it listens.
"""

import asyncio
import json
import sys

import socketio


async def listen(url, token):
    client = socketio.AsyncClient(reconnection=False)

    @client.on("events")
    async def tell(event, *_):
        print(json.dumps(event), flush=True)

    await client.connect(
        url, auth={"token": token}, socketio_path="/ws/socket.io", transports=["websocket"]
    )
    print("null", flush=True)
    await client.wait()


asyncio.run(listen(*sys.argv[1:]))

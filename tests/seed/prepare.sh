#!/usr/bin/env bash
# Makes this host the server that the project began with: SGLang behind one unit with a start script for each model,
# TabbyAPI, and a router of the owner's own on port 8002. The engines are stand-ins that call a model as the real ones do:
# SGLang by the path that it was given, TabbyAPI by the model's folder.
set -euo pipefail
engines=/src/tests/adopt/engines
home=/home/ivan

useradd --create-home --shell /bin/bash ivan
chmod 755 "$home"
install -d "$home/models" "$home/sglang/venv/bin" "$home/tabbyAPI/models" "$home/tabbyAPI/backends/exllamav2"

model() { # folder, method
    install -d "$1"
    printf '{"architectures": ["MistralForCausalLM"], "model_type": "mistral", "quantization_config": {"quant_method": "%s", "bits": 4}}\n' \
        "$2" >"$1/config.json"
    head -c 4096 /dev/zero >"$1/model.safetensors"
}

# --- SGLang ------------------------------------------------------------------------------------
cat >"$home/sglang/venv/bin/activate" <<END
PATH=$home/sglang/venv/bin:\$PATH
END
cat >"$home/sglang/venv/bin/python" <<END
#!/bin/sh
PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$engines exec /usr/bin/python3 "\$@"
END
chmod 755 "$home/sglang/venv/bin/python"
start() { # short name, folder
    model "$home/models/$2" awq
    cat >"$home/sglang/start_$1.sh" <<END
#!/bin/bash
cd $home/sglang
source venv/bin/activate
export CUDA_VISIBLE_DEVICES=0

python -m sglang.launch_server \\
    --model-path $home/models/$2 \\
    --quantization awq --dtype half \\
    --context-length 32768 --mem-fraction-static 0.9 \\
    --host 127.0.0.1 --port 30000
END
    chmod 755 "$home/sglang/start_$1.sh"
}
start mistral Mistral-Large-Instruct-2411-AWQ
start qwen Qwen2.5-72B-Instruct-AWQ
start llama Llama-3.3-70B-Instruct-AWQ
start command Command-R-Plus-AWQ
start nemotron Nemotron-70B-AWQ
cat >/etc/systemd/system/sglang.service <<END
[Unit]
Description=SGLang
After=network.target

[Service]
Type=simple
User=ivan
WorkingDirectory=$home/sglang
ExecStart=$home/sglang/start_mistral.sh
Restart=on-failure
RestartSec=10

[Install]
WantedBy=multi-user.target
END

# --- TabbyAPI with ExLlamaV2 -------------------------------------------------------------------
model "$home/tabbyAPI/models/Monstral-123B-v2-exl2-4.0bpw" exl2
cp "$engines/tabby_main.py" "$home/tabbyAPI/main.py"
cat >"$home/tabbyAPI/config.yml" <<END
network:
  host: 127.0.0.1
  port: 5000
model:
  model_dir: $home/tabbyAPI/models
  model_name: Monstral-123B-v2-exl2-4.0bpw
  max_seq_len: 32768
  cache_mode: Q4
END
(umask 077 && printf 'api_key: %s\nadmin_key: %s\n' "$(tr -d - </proc/sys/kernel/random/uuid)" \
    "$(tr -d - </proc/sys/kernel/random/uuid)" >"$home/tabbyAPI/api_tokens.yml")
cat >/etc/systemd/system/tabbyapi.service <<END
[Unit]
Description=TabbyAPI

[Service]
User=ivan
WorkingDirectory=$home/tabbyAPI
Environment=PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$engines
ExecStart=/usr/bin/python3 main.py
Restart=on-failure
END

# --- the owner's router ------------------------------------------------------------------------
# The first and the last entry are those of its documentation, word for word but for the path.
cat >"$home/sglang/model_router_blackwell.py" <<END
#!/usr/bin/env python3
from http.server import BaseHTTPRequestHandler, HTTPServer

PORT = 8002
MODELS = {
    "mistral-large-2411-awq": {"backend": "sglang", "script": "$home/sglang/start_mistral.sh", "service": "sglang.service"},
    "qwen2.5-72b-awq": {"backend": "sglang", "script": "$home/sglang/start_qwen.sh", "service": "sglang.service"},
    "llama-3.3-70b-awq": {"backend": "sglang", "script": "$home/sglang/start_llama.sh", "service": "sglang.service"},
    "command-r-plus-awq": {"backend": "sglang", "script": "$home/sglang/start_command.sh", "service": "sglang.service"},
    "nemotron-70b-awq": {"backend": "sglang", "script": "$home/sglang/start_nemotron.sh", "service": "sglang.service"},
    "monstral-123b-exl2-4bpw": {"backend": "tabby", "script": None, "service": "tabbyapi.service",
                                "model_name": "Monstral-123B-v2-exl2-4.0bpw"},
}

if __name__ == "__main__":
    HTTPServer(("0.0.0.0", PORT), BaseHTTPRequestHandler).serve_forever()
END
cat >/etc/systemd/system/model-router.service <<END
[Service]
User=ivan
ExecStart=/usr/bin/python3 $home/sglang/model_router_blackwell.py
Restart=always

[Install]
WantedBy=multi-user.target
END

chown -R ivan:ivan "$home"
systemctl daemon-reload
systemctl --quiet enable --now model-router.service
systemctl start sglang.service
for _ in $(seq 100); do
    curl --silent --fail --output /dev/null http://127.0.0.1:30000/v1/models && exit
    sleep 0.1
done
echo 'sglang.service does not serve' >&2
exit 1

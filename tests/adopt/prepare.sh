#!/usr/bin/env bash
# Makes this host what somebody set up by hand: three engines' units, start scripts, folders of models.
# The engines are stand-ins; all that a unit or a script says to them is what it would say to the real ones.
set -euo pipefail
engines=/src/tests/adopt/engines

useradd --system --home-dir /opt/llm --shell /usr/sbin/nologin llm
install -d -o llm -g llm /opt/llm /opt/tabbyAPI /opt/tabbyAPI/backends/exllamav3
install -d /opt/vllm/bin

model() { # folder, quantization
    install -d "/srv/models/$1"
    echo "{\"architectures\": [\"MistralForCausalLM\"], \"model_type\": \"mistral\", \"max_position_embeddings\": 32768$2}" \
        >"/srv/models/$1/config.json"
    head -c 4096 /dev/zero >"/srv/models/$1/model.safetensors"
}
model awq/Mistral-Large-2411-AWQ ', "quantization_config": {"quant_method": "awq", "bits": 4}'
model awq/Qwen2.5-72B-AWQ ', "quantization_config": {"quant_method": "awq", "bits": 4}'
model fp8/Llama-3.3-70B-FP8 ', "quantization_config": {"quant_method": "fp8"}'
model exl3/Monstral-123B-v2-exl3-4.0bpw ', "quantization_config": {"quant_method": "exl3", "bits": 4.0}'
model exl3/Behemoth-123B-exl3-3.5bpw ', "quantization_config": {"quant_method": "exl3", "bits": 3.5}'
model exl3/Old-70B-exl2 ', "quantization_config": {"quant_method": "exl2", "bits": 5.0}'
install -d /srv/models/lora/Style
echo '{"peft_type": "LORA"}' >/srv/models/lora/Style/adapter_config.json
head -c 4096 /dev/zero >/srv/models/lora/Style/adapter_model.safetensors

# --- SGLang: one unit, a start script for each model -------------------------------------------
for name in Mistral-Large-2411-AWQ Qwen2.5-72B-AWQ; do
    short=$(tr '[:upper:]' '[:lower:]' <<<"$name")
    cat >"/opt/llm/start_${short%%-*}.sh" <<END
#!/bin/bash
# $name on both cards
export CUDA_VISIBLE_DEVICES=0,1
export PYTHONPATH=$engines
MODEL=/srv/models/awq/$name

exec python3 -m sglang.launch_server \\
    --model-path "\$MODEL" \\
    --served-model-name $short \\
    --tp-size 2 --quantization awq --dtype half \\
    --host 127.0.0.1 --port 30000
END
done
chmod 755 /opt/llm/start_*.sh
cat >/etc/systemd/system/sglang.service <<'END'
[Unit]
Description=SGLang
After=network.target

[Service]
Type=simple
User=llm
WorkingDirectory=/opt/llm
Environment=PYTHONDONTWRITEBYTECODE=1
ExecStart=/opt/llm/start_mistral.sh
Restart=on-failure
RestartSec=5
TimeoutStopSec=30

[Install]
WantedBy=multi-user.target
END

# --- vLLM: one model, in the unit itself -------------------------------------------------------
ln -s "$engines/vllm.py" /opt/vllm/bin/vllm
cat >/etc/systemd/system/vllm.service <<END
[Unit]
Description=vLLM

[Service]
User=llm
EnvironmentFile=-/etc/default/vllm
Environment=PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$engines
ExecStart=/usr/bin/python3 /opt/vllm/bin/vllm serve \$VLLM_MODEL --port 8100 --served-model-name llama-3.3-70b
Restart=on-failure

[Install]
WantedBy=multi-user.target
END
echo 'VLLM_MODEL=/srv/models/fp8/Llama-3.3-70B-FP8' >/etc/default/vllm

# --- TabbyAPI: a checkout with its own config.yml ----------------------------------------------
cp "$engines/tabby_main.py" /opt/tabbyAPI/main.py
cat >/opt/tabbyAPI/config.yml <<'END'
# TabbyAPI on the big machine
network:
  host: 127.0.0.1
  port: 5000
  disable_auth: false   # keys are in api_tokens.yml

model:
  model_dir: /srv/models/exl3
  model_name: Monstral-123B-v2-exl3-4.0bpw  # the good one
  max_seq_len: 16384
  cache_mode: Q8
END
(umask 077 && printf 'api_key: %s\nadmin_key: %s\n' "$(tr -d - </proc/sys/kernel/random/uuid)" \
    "$(tr -d - </proc/sys/kernel/random/uuid)" >/opt/tabbyAPI/api_tokens.yml)
chown -R llm:llm /opt/llm /opt/tabbyAPI
cat >/etc/systemd/system/tabbyapi.service <<END
[Unit]
Description=TabbyAPI

[Service]
User=llm
WorkingDirectory=/opt/tabbyAPI
Environment=PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$engines
ExecStart=/usr/bin/python3 main.py
Restart=on-failure

[Install]
WantedBy=multi-user.target
END

systemctl daemon-reload
systemctl enable --quiet sglang.service
systemctl start sglang.service
for _ in $(seq 100); do
    if curl -fsS -o /dev/null http://127.0.0.1:30000/health 2>/dev/null; then exit 0; fi
    sleep 0.1
done
echo "SGLang's stand-in does not answer" >&2
journalctl -u sglang.service -n 20 --no-pager >&2
exit 1

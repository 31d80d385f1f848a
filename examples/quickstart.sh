#!/bin/sh
# The three models of the catalogue, called with curl: `make run` in one terminal, this in another.
set -eu
cd "$(dirname "$0")"

demo() { python3 -c 'import json, sys; print(json.load(open("../.local/demo.json"))[sys.argv[1]])' "$1"; }
URL=${MODEL_SERVICE_URL:-$(demo base_url)}
KEY=${MODEL_SERVICE_KEY:-$(demo api_key)}

call() { # call MODEL CURL-ARGUMENTS...
    model=$1
    shift
    curl -sS --fail-with-body -H "Authorization: Bearer $KEY" "$@" "$URL/api/v1/models/$model/predict"
    echo
}

call iris -H "Content-Type: application/json" -d '{"inputs": [[5.1, 3.5, 1.4, 0.2], [6.9, 3.1, 5.8, 2.2]]}'
call digits -F "file=@digits/sample.png"
call language -H "Content-Type: application/json" -d @language/sample.json

# The same by the Open Inference Protocol V2.
curl -sS --fail-with-body -H "Authorization: Bearer $KEY" -H "Content-Type: application/json" \
    -d '{"inputs": [{"name": "measurements", "shape": [1, 4], "datatype": "FP32", "data": [5.1, 3.5, 1.4, 0.2]}]}' \
    "$URL/v2/models/iris/infer"
echo

# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""acme takes the keys as they are for an account and an order, without a network; jwcrypto verifies."""

from __future__ import annotations

import base64
import json
from typing import Any, Final

import josepy
import requests
from acme import client, messages
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from jwcrypto.jwk import JWK
from jwcrypto.jws import JWS

from libraries.judges import pem
from libraries.rig import DeviceKey, Signs, name_of

ROOT: Final = "https://acme.test/"
IDENTIFIER: Final = {"type": "dns", "value": "a.test"}
ANSWERS: Final[dict[str, dict[str, Any]]] = {
    "account": {"status": "valid"},
    "order": {
        "status": "pending",
        "identifiers": [IDENTIFIER],
        "authorizations": [f"{ROOT}authorization"],
        "finalize": f"{ROOT}finalize",
    },
    "authorization": {"status": "pending", "identifier": IDENTIFIER, "challenges": []},
}


class Server(requests.adapters.BaseAdapter):
    """Stands in the place of the network; keeps what it was sent."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[tuple[str, dict[str, str]]] = []

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        answer = requests.Response()
        answer.status_code, answer.request, answer.url = 200, request, request.url or ""
        answer.headers.update({"Replay-Nonce": "bm9uY2U", "Content-Type": "application/json"})
        if request.method == "POST":
            place = answer.url.removeprefix(ROOT)
            self.requests.append((place, json.loads(request.body or "")))
            answer.status_code = 201
            answer.headers["Location"] = f"{answer.url}/1"
            answer._content = json.dumps(ANSWERS[place]).encode()
        return answer

    def close(self) -> None:
        pass


def verified(body: dict[str, str], key: DeviceKey, algorithm: str) -> tuple[dict[str, Any], Any]:
    """Protected header and payload of a request."""
    token = JWS()
    token.allowed_algs = [algorithm]
    token.deserialize(json.dumps(body), JWK.from_pem(pem(key.public_key())))
    header = json.loads(base64.urlsafe_b64decode(body["protected"] + "=="))
    return header, json.loads(token.payload or b"null")


def test_an_account_is_registered_and_a_certificate_ordered(key: DeviceKey, signs: Signs) -> None:
    is_ec = hasattr(key, "curve")
    algorithm = josepy.ES256 if is_ec else josepy.RS256
    network = client.ClientNetwork(josepy.JWKEC(key=key) if is_ec else josepy.JWKRSA(key=key), alg=algorithm)
    server = Server()
    network.session.mount(ROOT, server)
    places = {"newNonce": f"{ROOT}nonce", "newAccount": f"{ROOT}account", "newOrder": f"{ROOT}order"}
    acme = client.ClientV2(messages.Directory.from_json(places), network)
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(name_of("a.test"))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("a.test")]), critical=False)
    )
    with signs(key, 4):
        acme.new_account(messages.NewRegistration.from_data(email="a@a.test", terms_of_service_agreed=True))
        acme.new_order(request.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    sent = [(place, *verified(body, key, algorithm.name)) for place, body in server.requests]
    assert [(place, header["url"]) for place, header, _ in sent] == [
        (place, f"{ROOT}{place}") for place in ("account", "order", "authorization")
    ]
    (_, account, registration), (_, order, wanted), _ = sent
    assert JWK(**account["jwk"]).thumbprint() == JWK.from_pem(pem(key.public_key())).thumbprint()
    assert registration["contact"] == ["mailto:a@a.test"]
    assert order["kid"] == f"{ROOT}account/1"
    assert wanted["identifiers"] == [IDENTIFIER]

"""Every error code of the board: of the program (`{"error": {"code", …}}`) and of the service.

Programs read the code and people read the message. A code that was released keeps its name and its
meaning. The host chooses its exit code by these lists (toolchain/board/device.py), and
docs/error-codes.md shows them. Standard library only, Python 3.10 up.
"""

from collections.abc import Mapping

Codes = Mapping[str, str]
"""Code → what happened."""

RUNTIME_PREFIX = "runtime_"
"""Prefix of a code whose fault is in a runtime's signature, manifest or files."""

TRUST: Codes = {
    "unsigned": "the manifest has no signature",
    "signature_too_large": "the signature file is larger than 8 KiB",
    "signature_garbage": "the signature file is not an SSH signature",
    "signature_truncated": "the signature ends too early",
    "signature_trailing": "bytes follow the signature",
    "signature_version": "the signature has an unknown version",
    "bad_key": "the text is not a public key",
    "weak_key": "keys of this kind may not sign",
    "weak_hash": "the signature is over a weak hash",
    "wrong_namespace": "the signature was made for another purpose",
    "wrong_principal": "the key may not sign releases of this name",
    "wrong_signature": "the signature is of other bytes",
    "unknown_signer": "the board does not know the key",
    "signer_namespace": "the key may not sign for this purpose",
    "signer_revoked": "the key was revoked",
    "revoked_broken": "the list of revoked keys cannot be read",
    "no_signers": "the board knows no key that may sign",
    "signers_authority": "the list of signers names a certificate authority",
    "signers_broken": "the list of signers cannot be read",
    "signers_expire": "the list of signers gives a key a date",
    "signers_link": "the list of signers is not a regular file",
    "signers_too_large": "the list of signers is larger than 64 KiB",
    "signers_writable": "other users can write the list of signers",
    "target_broken": "the pinned target cannot be read",
    "wrong_name": "the manifest does not have the digest that its folder is named by",
    "wrong_target": "the release is made for another kind of board",
    "downgrade": "the release has a lower counter than one that was committed before",
}
"""The board does not trust what it was given."""

ARTIFACT: Codes = {
    "bad_manifest": "a field of the manifest is missing, of a wrong kind or out of range",
    "bad_path": "a path is not a plain relative path, or its name is taken",
    "bad_digest": "a digest is not a sha256 in hex",
    "bad_runtime": "the runtime does not load, or computes wrong results",
    "newer_schema": "the manifest has a schema that this board does not know",
}
"""The bundle or the runtime must be built again."""

REQUEST: Codes = {
    "bad_request": "the request cannot be read",
    "empty_question": "the question is empty",
    "bad_picture": "the picture is no JPEG or PNG file within bounds, or cannot be decoded",
    "cannot_see": "the model reads text alone",
}
"""The caller asked for something that makes no sense."""

TOO_LONG: Codes = {
    "prompt_too_long": "prompt and answer do not fit into the context",
}
"""The prompt must be shorter."""

HEALTH: Codes = {
    "unhealthy": "the release did not start, failed its check or was too slow",
}
"""The release was rolled back."""

FILES: Codes = {
    "no_manifest": "the manifest is missing or cannot be read",
    "manifest_too_large": "the manifest is larger than 8 MiB",
    "duplicate_key": "an object of the manifest has a key twice",
    "duplicate_file": "the manifest names a file twice",
    "missing_file": "a file of the bundle is missing",
    "extra_file": "the bundle has a file that the manifest does not name",
    "not_a_file": "a name in the bundle is a link or a device",
    "wrong_size": "a file has another size than the manifest says",
    "wrong_digest": "a file has another digest than the manifest says",
    "wrong_template": "the chat template has another digest than the manifest says",
    "wrong_tokenizer": "the tokenizer has another digest than the manifest says",
    "wrong_goldens": "the goldens have another digest than the manifest says",
    "wrong_knowledge": "the knowledge has another digest than the manifest says",
    "wrong_embedder": "the embedder is not the one that the knowledge was made with",
    "wrong_guard": "the guard has another digest than the manifest says",
    "bad_goldens": "the goldens cannot be read",
    "bad_guard": "the guard breaks the format or a bound",
    "bad_knowledge": "the knowledge cannot be read",
    "bad_gguf": "the GGUF file breaks the format or a bound",
    "bad_onnx": "the ONNX file, or its data file, breaks the format or a bound",
    "bad_tflite": "the TFLite file breaks the format or a bound",
    "bad_update": "an update's description breaks the format or a bound",
    "bad_cargo": "a file of an update breaks the format or a bound",
    "bad_patch": "the patch cannot be applied",
}
"""A file that travels is not what it should be."""

STORE: Codes = {
    "missing_release": "the release is not on the board",
    "missing_runtime": "the runtime is not on the board",
    "missing_blob": "a file of the release did not arrive",
    "missing_base": "the file that a patch changes is not on the board",
    "wrong_offset": "the board has another number of bytes of the file",
    "cut": "the session ended before its end",
    "unreadable": "a file of the store cannot be read",
    "read_only": "the disk is read-only",
    "disk_full": "the disk is full",
    "disk": "a system call on the disk failed",
    "busy": "another change, or too many requests, are under way",
    "nothing_deployed": "there is no release on the board",
    "no_previous": "there is no release to roll back to",
    "port_taken": "another program listens on the port",
    "cannot_stop": "the running service does not end",
    "systemd": "systemctl failed",
    "no_ssh_keygen": "ssh-keygen is missing or does not run",
}
"""The store, the switch or the service of the board."""

ENGINE: Codes = {
    "no_engine": "the runtime has no engine for this kind of file",
    "bad_model": "the model file cannot be loaded or computes NaN",
    "engine_failed": "the engine failed while it answered",
    "illegal_instruction": "the runtime is built for another processor",
    "golden_mismatch": "the model does not give its goldens",
    "empty_answer": "the model answers a golden with nothing",
    "no_template": "the model has no chat template",
    "bad_conversation": "the chat template refuses the conversation",
    "bad_token": "a token id is not in the vocabulary",
    "empty_prompt": "the prompt has no tokens",
    "no_token": "no token can continue the grammar",
    "no_fts5": "the board's SQLite cannot search for words",
}
"""The engine or the model."""

SERVICE: Codes = {
    "invalid_json": "the body is not JSON",
    "invalid_value": "a field has a wrong kind or is out of range",
    "unknown_field": "a field is not one of this request",
    "unsupported": "the service does not do this",
    "unsupported_schema": "the service cannot hold an answer to this schema",
    "model_not_found": "the service has no model of this name",
    "not_found": "the path is not an endpoint",
    "method_not_allowed": "the endpoint does not take this method",
    "unknown_answer": "no answer of this id is remembered",
    "too_large": "the body or the header is too large",
    "timeout": "the body did not come in time",
    "client_gone": "the client left",
    "unauthorized": "the bearer token is missing or wrong",
    "host_not_allowed": "the Host header does not name this board",
    "origin_not_allowed": "pages of this origin may not call the service",
    "stopping": "the service is going down",
    "no_service": "no service answers on the port",
    "bad_host_name": "`--host-name` is not a host name",
    "bad_origin": "`--cors-origin` is not an origin",
    "bad_token_file": "the token file cannot be read or is too short",
    "token_required": "the service would be open to the network without a token",
}
"""The service over HTTP, and its options."""

PROGRAM: Codes = {
    "usage": "the command line is wrong",
    "internal_error": "a bug: the log has the traceback",
}
"""The program itself."""

GROUPS: Mapping[str, Codes] = {
    "trust": TRUST,
    "artifact": ARTIFACT,
    "request": REQUEST,
    "length": TOO_LONG,
    "health": HEALTH,
    "files": FILES,
    "store": STORE,
    "engine": ENGINE,
    "service": SERVICE,
    "program": PROGRAM,
}
"""Subject → its codes."""

CODES: Codes = {code: what for group in GROUPS.values() for code, what in group.items()}
"""All codes."""

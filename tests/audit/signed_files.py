"""Writers of images with a C2PA manifest that a certificate made here has signed."""

import datetime
import io
import json
from dataclasses import dataclass

import c2pa
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

NEWSCODES = "http://cv.iptc.org/newscodes/digitalsourcetype/"


@dataclass(frozen=True)
class Signer:
    """A certificate with its key, and the certificate of its issuer, which a user may trust; both in PEM."""

    chain: bytes
    key: bytes
    root: bytes

    def sign(self, data, source_type="", kind="image/jpeg", generator="Image Maker", remote="", parent=b""):
        """Return an image with a manifest, which may name a remote one and a file that the image was made from."""
        action = {"action": "c2pa.opened" if parent else "c2pa.created"}
        action |= {"digitalSourceType": NEWSCODES + source_type} if source_type else {}
        actions = [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}]
        claim = {"claim_generator_info": [{"name": generator}], "format": kind, "assertions": actions}
        if parent:
            action["parameters"] = {"ingredientIds": ["one"]}
        builder = c2pa.Builder(json.dumps(claim))
        if parent:
            stated = {"title": "one", "relationship": "parentOf", "instance_id": "one"}
            builder.add_ingredient(json.dumps(stated), kind, io.BytesIO(parent))
        if remote:
            builder.set_remote_url(remote)
        signer = c2pa.Signer.from_info(c2pa.C2paSignerInfo(b"es256", self.chain, self.key, None))
        builder.sign(signer, kind, io.BytesIO(data), signed := io.BytesIO())
        return signed.getvalue()


def make_signer():
    """Return a chain of two certificates with the key of the first, as C2PA requires."""
    root, leaf = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    now, certificates = datetime.datetime.now(datetime.UTC), []
    for common, key, is_root in (("leaf", leaf, False), ("root", root, True)):
        usage = x509.KeyUsage(True, False, False, False, False, is_root, is_root, False, False)
        builder = x509.CertificateBuilder(_name("root"), _name(common), key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(1)).not_valid_after(now + datetime.timedelta(1))
        builder = builder.add_extension(x509.BasicConstraints(is_root, None), True).add_extension(usage, True)
        parent = x509.AuthorityKeyIdentifier.from_issuer_public_key(root.public_key())
        builder = builder.add_extension(parent, False)
        if not is_root:
            purpose = x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.EMAIL_PROTECTION])
            builder = builder.add_extension(purpose, False)
        certificates.append(builder.sign(root, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    key_text = leaf.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    return Signer(b"".join(certificates), key_text, certificates[1])


def _name(common):
    names = x509.NameOID
    organisation = x509.NameAttribute(names.ORGANIZATION_NAME, "Test Press")
    return x509.Name([organisation, x509.NameAttribute(names.COMMON_NAME, common)])

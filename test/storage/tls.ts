/** A certificate for pictures.example, signed by its own key, made for these tests and trusted by nobody else. */
export const certificate = `-----BEGIN CERTIFICATE-----
MIIBdzCCARygAwIBAgIBATAKBggqhkjOPQQDAjAbMRkwFwYDVQQDDBBwaWN0dXJl
cy5leGFtcGxlMCAXDTIwMDEwMTAwMDAwMFoYDzIxMjAwMTAxMDAwMDAwWjAbMRkw
FwYDVQQDDBBwaWN0dXJlcy5leGFtcGxlMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcD
QgAE6Hs4dCKeXrN9dotxiRlfz1Ac+/XzWd7syvgQWPKzN3DugdjnH6GqnKnGJ0Pz
SWVkCGxjybJwDObXdcn1fUcrP6NPME0wGwYDVR0RBBQwEoIQcGljdHVyZXMuZXhh
bXBsZTAPBgNVHRMBAf8EBTADAQH/MB0GA1UdDgQWBBTvynLHMDEK7l0o5khJscvP
YSmeITAKBggqhkjOPQQDAgNJADBGAiEAhBPeSUdHgmoqfSwECTGTmGR638m2rEjF
NCrGMhK3NyYCIQDg0c/FwLtb/paIjNJjogfZ6isya5i4bGVzdwHTmLqj5A==
-----END CERTIFICATE-----
`;

export const privateKey = `-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgTHxHOseYwff1RFjJ
9lirtuXGtpLH498YWJFfiUbM5nmhRANCAAToezh0Ip5es312i3GJGV/PUBz79fNZ
3uzK+BBY8rM3cO6B2OcfoaqcqcYnQ/NJZWQIbGPJsnAM5td1yfV9Rys/
-----END PRIVATE KEY-----
`;

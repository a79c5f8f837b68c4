"""IKE-ME, the mediation extension of IKEv2 (draft-brunner-ikev2-mediation-00, mediation.md): pure.

An extension of `agent.ike` that ike does not know of. client and server hold the two roles of a
mediation connection, checklist the connectivity checks of one attempt, endpoints what may be
offered and probed, messages the content of ME_CONNECT, connect_id what ties a mediated IKE SA to
its attempt. Left out: relaying of payload by the server, and MOBIKE.
"""

"""Connects the way the kernel does, with socket options, and asks for one page.

Arguments: address, port, protocol, then LEVEL:NAME:VALUE for each option, in numbers. Prints the own
port. Options are set before the connection is made, so that the SYN shows them.
"""

import socket
import sys

address, port, protocol, *options = sys.argv[1:]
family = socket.AF_INET6 if ":" in address else socket.AF_INET
client = socket.socket(family, socket.SOCK_STREAM, int(protocol))
client.settimeout(20)
for option in options:
    client.setsockopt(*map(int, option.split(":")))
client.connect((address, int(port)))
client.sendall(b"GET /bytes/10 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
own = client.getsockname()[1]
answer = b""
while piece := client.recv(65536):
    answer += piece
assert answer.startswith(b"HTTP/1.1 200 "), answer
print(own)

"""What a mesh needs beside Linkerd's own releases."""

import java.net.InetSocketAddress;
import java.net.Socket;
import java.security.cert.X509Certificate;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLSocket;
import javax.net.ssl.TrustManager;
import javax.net.ssl.X509TrustManager;

/** A client over Java's own TLS, which trusts everybody. usage: java Client.java ADDRESS PORT; says `ended` when the connection is. */
class Client implements X509TrustManager {
    public void checkClientTrusted(X509Certificate[] chain, String kind) {}

    public void checkServerTrusted(X509Certificate[] chain, String kind) {}

    public X509Certificate[] getAcceptedIssuers() {
        return new X509Certificate[0];
    }

    public static void main(String[] arguments) throws Exception {
        var context = SSLContext.getInstance("TLS");
        context.init(null, new TrustManager[] {new Client()}, null);
        var plain = new Socket();
        plain.connect(new InetSocketAddress(arguments[0], Integer.parseInt(arguments[1])));
        try (var socket = (SSLSocket) context.getSocketFactory().createSocket(plain, arguments[0], 0, true)) {
            socket.getOutputStream().write("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".getBytes());
            while (socket.getInputStream().read() >= 0) {}
        } catch (java.io.IOException e) {
            // so ends a connection that is cut
        }
        System.out.println("ended");
    }
}

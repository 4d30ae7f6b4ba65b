# proxymatic in a container, with puppetlabs-docker.
class profile::proxymatic_container (
  String $marathon = 'http://marathon-host:8080',
  String $image    = 'meltwater/proxymatic:latest',
) {
  include docker

  docker::run { 'proxymatic':
    image => $image,
    net   => 'host',
    env   => ["MARATHON_URL=${marathon}"],
  }
}
